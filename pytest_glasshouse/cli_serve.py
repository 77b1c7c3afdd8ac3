"""`glasshouse serve`: the attestation server as a process of its own, until SIGTERM.

This module knows the command line, files and signals. It refuses to know what is asked of the server, and to serve in the
clear anywhere but on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.cli_output import say
from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

_PORT = 8470
_GRACE_S = 5.0
_OVERDUE_EVERY_S = 5.0
_DESCRIPTION = """\
Run the attestation server that rows of one owner share: it checks a guest's evidence and only then lets a data key go.
It listens on loopback; anywhere else it needs a certificate and its key, and speaks TLS 1.3 only.

On disk, in --state (made with mode 0700 when missing):
  server.key        the key results and receipts are signed with: whoever pins it recognises this server (made when missing)
  server.pub        its public half, for GLASSHOUSE_SERVER_KEY and `glasshouse check --trust`
  ledger.sqlite3    policy versions, attempts, releases, completions: written before a key leaves
Data keys and open challenges are in memory only. After a restart owners register again, and a leg whose key was released
before the restart can still be completed.

Every decision is one JSON line of the audit log (standard error, or --audit FILE). It holds no token, key or nonce.
GET /v1/keys tells the public keys, signed. SIGTERM and SIGINT end the server once what was asked is answered.
"""
_EPILOG = """\
then, where pytest runs:
  GLASSHOUSE_SERVER=http://127.0.0.1:8470 GLASSHOUSE_SERVER_KEY=STATE/server.pub GLASSHOUSE_OWNER_KEY=owner.key pytest benchmarks/

exit codes: 0 ended by a signal; 1 the ledger is damaged; 4 the command line or a file it names is wrong
"""


def declare(commands: Any) -> None:
    """Add the subcommand."""
    serve = commands.add_parser(
        "serve",
        help="run the attestation server on its own",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    serve.add_argument("--owner", required=True, metavar="PUB", help="the owner's public key: a file, or the key itself")
    serve.add_argument(
        "--state", type=Path, default=None, metavar="DIR", help="key and ledger (default: ~/.local/state/glasshouse)"
    )
    serve.add_argument("--listen", default="127.0.0.1", metavar="ADDRESS", help="IP address (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=_PORT, metavar="N", help=f"TCP port, 0 for any free one (default: {_PORT})")
    serve.add_argument("--certificate", type=Path, metavar="PEM", help="certificate chain for TLS")
    serve.add_argument("--key", type=Path, metavar="PEM", help="its private key, unencrypted, mode 0600")
    serve.add_argument("--audit", type=Path, metavar="FILE", help="append the audit log here (default: standard error)")
    serve.add_argument(
        "--rate", type=float, default=50.0, metavar="N", help="requests per second and address; 0: any (default: 50)"
    )
    serve.add_argument("--connections", type=int, default=256, metavar="N", help="open at once (default: 256)")
    serve.add_argument("--request-seconds", type=float, default=10.0, metavar="S", help="to send a request whole (default: 10)")
    serve.set_defaults(run=_serve, report_error_code=4)


def _serve(options: argparse.Namespace) -> int:
    from pytest_glasshouse.trust.audit import AuditLine
    from pytest_glasshouse.trust.http import check_address, listen
    from pytest_glasshouse.trust.keyfiles import read_public, server_key
    from pytest_glasshouse.trust.ledger import Ledger
    from pytest_glasshouse.trust.limits import Limits
    from pytest_glasshouse.trust.server import AttestationServer
    from pytest_glasshouse.wire.tokens import public_text

    limits = _limits(options, Limits)
    tls = _tls(options)
    check_address(options.listen, tls=tls is not None)
    owner = read_public(options.owner, what="--owner")
    state = options.state or Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "glasshouse"
    _nobody_looks_in()
    signing = server_key(state)
    # From here to the end a signal waits until it is asked for: one that comes early is not lost, and nothing is left half done.
    wanted = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        with contextlib.closing(Ledger(state / "ledger.sqlite3")) as ledger, _audit(options.audit) as audit:
            server = AttestationServer(owner=owner, ledger=ledger, signing=signing, audit=audit)
            listening = listen(server, (options.listen, options.port), limits=limits, tls=tls, audit=audit)
            audit(AuditLine(event="serve", decision="started", kid=server.kid))
            say([f"glasshouse serve: {listening.url} key {public_text(server.public_key)}"])
            for each in server.outstanding():
                say([f"glasshouse serve: outstanding release, deadline {each['deadline']} (Unix seconds)"])
            while signal.sigtimedwait(wanted, _OVERDUE_EVERY_S) is None:
                server.tell_overdue()
            listening.close(grace_s=_GRACE_S)
            audit(AuditLine(event="serve", decision="stopped", kid=server.kid))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return 0


def _limits(options: argparse.Namespace, limits: Any) -> Any:
    for name, value in (("--connections", options.connections), ("--request-seconds", options.request_seconds)):
        if not 0 < value < 1e6:  # noqa: PLR2004
            raise ConfigurationError(f"{name}: expected a number above 0, saw {value:g}")
    if not 0 <= options.rate < 1e6:  # noqa: PLR2004
        raise ConfigurationError(f"--rate: expected a number, 0 for no limit, saw {options.rate:g}")
    if not 0 <= options.port < 1 << 16:
        raise ConfigurationError(f"--port: expected 0 to 65535, saw {options.port}")
    return limits(connections=options.connections, request_s=options.request_seconds, rate_per_s=options.rate or None)


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.certificate is None and options.key is None:
        return None
    if options.certificate is None or options.key is None:
        raise ConfigurationError("--certificate and --key go together")
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if options.key.stat().st_mode & 0o077:
            raise ConfigurationError(f"--key: {options.key} may be used by others; chmod 600 it")
        # A key that asks for a password would stop a service at its start; it gets an empty one and fails.
        context.load_cert_chain(options.certificate, options.key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"--certificate, --key: cannot be used ({error.strerror or type(error).__name__})") from None
    return context


@contextlib.contextmanager
def _audit(path: Path | None) -> Iterator[Any]:
    from pytest_glasshouse.trust.audit import AuditLog

    if path is None:
        yield AuditLog(sys.stderr.fileno())
        return
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"--audit {path}: cannot be written ({error.strerror})") from None
    try:
        yield AuditLog(fd)
    finally:
        os.close(fd)


def _nobody_looks_in() -> None:
    """No core dump, and no reading of this process's memory by others of the same user."""
    from pytest_glasshouse.guest.launcher import raise_fences

    threading.excepthook = lambda _args: None  # a traceback shows source lines and values; the audit log says what was decided
    raise_fences()
