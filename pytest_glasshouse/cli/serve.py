"""`glasshouse serve`: the attestation server as a process of its own, until SIGTERM.

This module knows the command line, files and signals. It refuses to know what is asked of the server, and to serve without
TLS anywhere but on loopback.
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

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_errors, write_lines

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from pytest_glasshouse.attestation.audit import Audit, AuditLine
    from pytest_glasshouse.cli.parser import Commands

_PORT = 8470
_GRACE_S = 5.0
_OVERDUE_EVERY_S = 5.0
_OTHER_FILES = 64
_DESCRIPTION = """\
Run the attestation server that rows of one owner share: it checks a guest's evidence and only then releases a data key.
It listens on loopback; anywhere else it needs a certificate and its key, and speaks TLS 1.3 only.

On disk, in --state (made with mode 0700 when missing):
  server.key        the key results and receipts are signed with: whoever pins it recognises this server (made when missing)
  server.pub        its public half, for GLASSHOUSE_SERVER_KEY and `glasshouse check --trust`
  ledger.sqlite3    policy versions, attempts, releases, completions, plans of runs, rounds and marks: written before an answer
Data keys and open challenges are in memory only. After a restart owners register again, and a leg whose key was released
before the restart can still be completed.

Every decision is one JSON line of the audit log (standard error, or --audit FILE). It holds no token, key or nonce. Refusals
above one a second, for one key or for all senders without one, are only counted (`left_out`); FILE is rotated when full.
GET /v1/keys returns the public keys, signed. SIGTERM, SIGINT and SIGHUP end the server once open requests are answered.
"""
_EPILOG = """\
then, where pytest runs:
  GLASSHOUSE_SERVER=http://127.0.0.1:8470 GLASSHOUSE_SERVER_KEY=STATE/server.pub GLASSHOUSE_OWNER_KEY=owner.key pytest benchmarks/

exit codes: 0 ended by a signal; 1 the ledger is damaged; 4 the command line or a file it names is wrong
"""


def declare(commands: Commands) -> None:
    """Add the command."""
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
        "--audit-mib", type=float, default=128.0, metavar="N",
        help="what it may take with its predecessors FILE.1 to FILE.7; 0: no limit (default: 128)",
    )  # fmt: skip
    serve.add_argument(
        "--rate", type=float, default=50.0, metavar="N", help="requests per second and address (IPv6: /64); 0: any (default: 50)"
    )
    serve.add_argument(
        "--connections", type=int, default=256, metavar="N", help="open at once, half of them by one address (default: 256)"
    )
    serve.add_argument("--request-seconds", type=float, default=10.0, metavar="S", help="to send a request whole (default: 10)")
    serve.set_defaults(run=_serve, report_error_code=EXIT_USAGE)


def _serve(options: argparse.Namespace) -> int:
    from pytest_glasshouse.attestation.audit import AuditLine
    from pytest_glasshouse.attestation.http import check_address, listen
    from pytest_glasshouse.attestation.ledger import ReleaseLedger
    from pytest_glasshouse.attestation.limits import Limits
    from pytest_glasshouse.attestation.server import AttestationServer
    from pytest_glasshouse.owner.keyfiles import read_public, server_key
    from pytest_glasshouse.wire.folder import check_umask, expanded
    from pytest_glasshouse.wire.tokens import public_text

    check_umask()
    limits = _limits(options, Limits)
    tls = _tls(options)
    check_address(options.listen, tls=tls is not None)
    owner = read_public(options.owner, what="--owner")
    state = options.state or expanded(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "glasshouse"
    _protect_memory()
    signing = server_key(state)
    # From here to the end a signal waits in `sigtimedwait`: one that comes early is not lost, and nothing is left half done.
    wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}  # one that is ignored (`nohup`) does not come
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    try:
        with contextlib.closing(ReleaseLedger(state / "ledger.sqlite3")) as ledger, _audit(options) as audit:
            server = AttestationServer(owner=owner, ledger=ledger, signing=signing, audit=audit)
            listening = listen(server, (options.listen, options.port), limits=limits, tls=tls, audit=audit)
            try:
                audit(AuditLine(event="serve", decision="started", kid=server.kid))
            except OSError as error:
                listening.close()
                raise ConfigurationError(f"--audit: cannot be written ({error.strerror or error}); nothing is served") from None
            write_lines([f"glasshouse serve: {listening.url} key {public_text(server.public_key)}"])
            for each in server.outstanding():
                write_lines([f"glasshouse serve: outstanding release, deadline {each['deadline']} (Unix seconds)"])
            while signal.sigtimedwait(wanted, _OVERDUE_EVERY_S) is None:
                with contextlib.suppress(OSError):  # reported on standard error, and tried again
                    server.audit_overdue()
            listening.close(grace_s=_GRACE_S)
            with contextlib.suppress(OSError):
                audit(AuditLine(event="serve", decision="stopped", kid=server.kid))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return EXIT_OK


def _limits(options: argparse.Namespace, limits: Any) -> Any:
    for name, value in (("--connections", options.connections), ("--request-seconds", options.request_seconds)):
        if not 0 < value < 1e6:  # noqa: PLR2004
            raise ConfigurationError(f"{name}: expected a number above 0, saw {value:g}")
    if not 0 <= options.rate < 1e6:  # noqa: PLR2004
        raise ConfigurationError(f"--rate: expected a number, 0 for no limit, saw {options.rate:g}")
    if options.audit_mib and not 0.01 <= options.audit_mib < 1e6:  # noqa: PLR2004
        raise ConfigurationError(f"--audit-mib: expected 0.01 or more, 0 for no limit, saw {options.audit_mib:g}")
    if not 0 <= options.port < 1 << 16:
        raise ConfigurationError(f"--port: expected 0 to 65535, saw {options.port}")
    _files_for(options.connections)
    return limits(connections=options.connections, request_s=options.request_seconds, rate_per_s=options.rate or None)


def _files_for(connections: int) -> None:
    """Let this process open as many files as it may have connections, those being closed included."""
    import resource

    wanted = 2 * connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise ConfigurationError(
            f"--connections {connections}: expected room for {wanted} open files, saw {hard}; ask for fewer, or raise `ulimit -n`"
        )
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    if options.certificate is None and options.key is None:
        return None
    if options.certificate is None or options.key is None:
        raise ConfigurationError("--certificate and --key: expected both, saw one")
    import ssl

    from pytest_glasshouse.wire.own_file import check_own

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    check_own(options.certificate, what="--certificate")
    check_own(options.key, what="--key", secret=True)
    try:
        # A key that asks for a password would stop a service at its start; it gets an empty one and fails.
        context.load_cert_chain(options.certificate, options.key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"--certificate, --key: cannot be used ({error.strerror or type(error).__name__})") from None
    return context


@contextlib.contextmanager
def _audit(options: argparse.Namespace) -> Iterator[Audit]:
    from pytest_glasshouse.attestation.audit import AuditLog
    from pytest_glasshouse.attestation.audit_file import AuditFile

    if options.audit is None:
        yield AuditLog(sys.stderr.fileno())
        return
    with contextlib.closing(AuditFile(options.audit, limit=int(options.audit_mib * (1 << 20)))) as log:
        yield _with_warnings(log)


def _with_warnings(log: Audit) -> Audit:
    """The log, with a line on standard error when it cannot be written any more and when it can again."""
    begun = fails = False

    def write(line: AuditLine) -> None:
        nonlocal begun, fails
        try:
            log(line)
        except OSError as error:
            if begun and not fails:
                _warn(f"the audit log cannot be written ({error.strerror or error}): every decision is refused until it can")
            fails = True
            raise
        if fails:
            _warn("the audit log is written again")
        begun, fails = True, False

    return write


def _warn(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        write_errors(f"glasshouse serve: {text}")


def _protect_memory() -> None:
    """No core dump, and no reading of this process's memory by others of the same user."""
    from pytest_glasshouse.guest.launcher import harden_process

    threading.excepthook = lambda _args: None  # a traceback shows source lines and values; the audit log says what was decided
    harden_process()
