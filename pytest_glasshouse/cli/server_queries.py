"""`glasshouse register` and `outstanding`: what an owner sends to a running attestation server, and asks of it.

This module knows the command line and files. It refuses to talk to a server whose key was not given, and to print a key.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, ProtocolError, RefusedError
from pytest_glasshouse.run.exit_codes import EXIT_NO, EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_errors, write_lines
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.legs.attestation import HostAttestation
    from pytest_glasshouse.owner.outstanding import Outstanding

QueryAnswer = TypeVar("QueryAnswer")

_REGISTER = """\
Hand a sealed package over to a running server: its manifest (PACKAGE.manifest), the policy that evidence must satisfy, and
the data key (PACKAGE.key), sealed anew so that only this server can read it. The package itself stays where it is. A
server forgets data keys when it restarts: register again then. Registering twice has no further effect.
"""
_OUTSTANDING = """\
List the data keys that were released without exit evidence of their leg: from a running server, whose answer is signed, or with
--state from the ledger of one that is down. A release is open until its deadline and overdue from then on.

exit codes: 0 none is overdue; 1 at least one is, or the server refused; 4 the command line, or the server cannot be asked
"""


def declare(commands: Commands) -> None:
    """Add the commands."""
    register = commands.add_parser(
        "register", help="register a sealed package with a running server", description=_REGISTER,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    register.add_argument(
        "package", type=Path, metavar="PACKAGE", help="as `glasshouse seal` wrote it, with its two files beside it"
    )
    register.add_argument("--policy", required=True, type=Path, metavar="FILE", help="as `glasshouse policy capture` wrote it")
    _add_server(register)
    register.set_defaults(run=_register, report_error_code=EXIT_USAGE)

    listing = commands.add_parser(
        "outstanding", help="data keys that were released and have no exit evidence", description=_OUTSTANDING,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    listing.add_argument(
        "--state", type=Path, metavar="DIR", help="the state directory of a server that is down, in place of a server"
    )
    listing.add_argument("--run-id", default="", metavar="RUN", help="of this run only")
    _add_server(listing)
    listing.set_defaults(run=_outstanding, report_error_code=EXIT_USAGE)


def _add_server(parser: Any) -> None:
    parser.add_argument("--server", metavar="URL", help="the server (default: GLASSHOUSE_SERVER)")
    parser.add_argument("--server-key", metavar="PUB", help="its public key: a file, or the key (default: GLASSHOUSE_SERVER_KEY)")
    parser.add_argument(
        "--server-ca", type=Path, metavar="PEM", help="the authority of its certificate (default: GLASSHOUSE_SERVER_CA)"
    )
    parser.add_argument("--owner", type=Path, metavar="FILE", help="the owner's key (default: GLASSHOUSE_OWNER_KEY)")


def _register(options: argparse.Namespace) -> int:
    from pytest_glasshouse.cli.policy import read_policy
    from pytest_glasshouse.owner.sealing import read_manifest
    from pytest_glasshouse.wire.canonical import sha256_hex

    policy = read_policy(options.policy)
    manifest = _read(_with_suffix(options.package, ".manifest")).decode("ascii", "replace").strip()
    sealed_key = _read(_with_suffix(options.package, ".key"))
    header = _header_sha256(options.package)
    host_attestation = _open_attestation(options)
    try:
        owner, digest = host_attestation.owner, sha256_hex(manifest.encode())
        claims = read_manifest(manifest, owner=owner.public)
        if claims["header_sha256"] != header:
            raise ConfigurationError(f"{options.package}: the manifest beside it describes another package")
        registration = owner.register(
            server=host_attestation.server_key,
            server_hpke=host_attestation.server_hpke,
            manifest=manifest,
            policy=policy,
            data_key=owner.open_data_key(sealed_key, manifest_sha256=digest),
        )
        answer = _asked(lambda: host_attestation.client.register(registration))
    finally:
        host_attestation.close()
    write_lines([f"registered  {printable(answer['manifest'])}", f"policy      {printable(answer['policy'])}"])
    return EXIT_OK


def _outstanding(options: argparse.Namespace) -> int:
    if options.state is not None and options.server is not None:
        raise ConfigurationError("--state, --server: expected one of them, saw both")
    listed = _of_ledger(options) if options.state is not None else _of_server(options)
    for each in listed.releases:
        state = "overdue" if each in listed.overdue() else "open"
        due = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(int(str(each["deadline"]))))
        write_lines([f"{state:7}  due {due}  {printable(each['sub'])}"])
    more = f", the oldest {len(listed.releases)} are listed" if len(listed.releases) < listed.total else ""
    write_lines([f"{listed.total} outstanding, {len(listed.overdue())} overdue{more}"])
    return EXIT_NO if listed.overdue() else EXIT_OK


def _of_server(options: argparse.Namespace) -> Outstanding:
    host_attestation = _open_attestation(options)
    try:
        query = host_attestation.owner.sign_query(server=host_attestation.server_key, run=options.run_id, now=int(time.time()))
        return _asked(lambda: host_attestation.client.outstanding(query, server=host_attestation.server_key))
    finally:
        host_attestation.close()


def _of_ledger(options: argparse.Namespace) -> Outstanding:
    from contextlib import closing

    from pytest_glasshouse.attestation.ledger import ReleaseLedger
    from pytest_glasshouse.owner.outstanding import Outstanding

    path = options.state / "ledger.sqlite3"
    if not path.is_file():
        raise ConfigurationError(f"--state {options.state}: expected a ledger there, saw none")
    with closing(ReleaseLedger(path)) as ledger:
        found = ledger.outstanding(run=options.run_id)
    return Outstanding(at=int(time.time()), total=len(found), releases=tuple(found))


def _open_attestation(options: argparse.Namespace) -> HostAttestation:
    """Owner and server, the server known by its key. Raises `ConfigurationError` for what is missing or does not fit."""
    from pytest_glasshouse.legs.attestation import HostAttestation, OutsideServer
    from pytest_glasshouse.wire.folder import expanded

    names = {"server": "GLASSHOUSE_SERVER", "server_key": "GLASSHOUSE_SERVER_KEY", "owner": "GLASSHOUSE_OWNER_KEY"}
    given = {name: getattr(options, name) or os.environ.get(variable) for name, variable in names.items()}
    missing = [f"--{name.replace('_', '-')} (or {variable})" for name, variable in names.items() if not given[name]]
    if missing:
        raise ConfigurationError(f"expected {', '.join(missing)}; saw none")
    authority = options.server_ca or os.environ.get("GLASSHOUSE_SERVER_CA")
    if authority and not Path(authority).is_file():
        raise ConfigurationError(f"--server-ca (or GLASSHOUSE_SERVER_CA) {authority}: expected a PEM file, saw none")
    return HostAttestation(
        OutsideServer(
            url=str(given["server"]),
            key=str(given["server_key"]),
            owner_key=expanded(str(given["owner"])),
            authority=Path(authority) if authority else None,
        )
    )


def _asked(ask: Callable[[], QueryAnswer]) -> QueryAnswer:
    try:
        return ask()
    except RefusedError as refusal:
        write_errors(f"the server refused: {printable(refusal.reason)}")
        raise SystemExit(1) from None
    except (InfrastructureError, ProtocolError) as error:
        raise ConfigurationError(f"{error}; the server's state is not known") from None


def _header_sha256(path: Path) -> str:
    from pytest_glasshouse.errors import IntegrityError
    from pytest_glasshouse.wire.bounded_file import mapped
    from pytest_glasshouse.wire.package import parse_header

    try:
        return parse_header(mapped(path)).sha256
    except IntegrityError:
        raise ConfigurationError(f"{path}: expected a package as `glasshouse seal` writes it, saw something else") from None


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read(path: Path) -> bytes:
    from pytest_glasshouse.wire.bounded_file import read_named
    from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT

    return read_named(path, what=str(path), limit=MESSAGE_LIMIT)
