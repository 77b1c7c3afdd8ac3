"""`glasshouse keygen`, `seal` and `inspect`: an owner's key, a package sealed with it, and what a package contains.

This module knows files and lines of text. It refuses to print a key, and to take one from the command line.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.run.exit_codes import EXIT_OK, EXIT_USAGE
from pytest_glasshouse.wire.output import write_line, write_lines
from pytest_glasshouse.wire.printable import json_text, printable

if TYPE_CHECKING:
    from pytest_glasshouse.attestation.device_evidence import DeviceEvidence
    from pytest_glasshouse.cli.parser import Commands
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.part_file import PartFile, PartSource

#: A larger package than this, in bytes, takes long enough to be shown, each time that so many percent more are done.
_SHOWN_FROM = 256 << 20
_EVERY_PERCENT = 5
_SEAL = """\
Encrypt files into one package under a fresh key, and describe it in a manifest signed by the owner. Writes
  OUT             the package
  OUT.manifest    the signed manifest: it holds the hash of the package's header, and so binds every byte
  OUT.key         the data key, sealed to the owner: only the owner can read it
A directory with config.json, tokenizer.json and *.safetensors is a base model: those files of it that a row loads are sealed, and
the package is confidential. A row names it as its model (model="OUT", base="sealed"); GLASSHOUSE_OWNER_KEY names the owner's key.
Other parts are named by their files, in lower case letters, digits, `.`, `-` and `_`; the files of a directory are taken as they
lie in it, without those in folders below.
"""
_INSPECT = """\
Show what a package or a manifest contains: format, parts, sizes, and the manifest's claims (OUT.manifest beside the package is
read too). With --owner the signature is verified and the package compared with it: exit 1 when either fails. Without
--owner nothing is verified, and the output shows that. No key is needed and nothing is decrypted.

Recorded evidence of a device is shown in words: an SEV-SNP report, a TDX quote, a GPU's SPDM measurements, raw or in
hexadecimal, NVIDIA's JSON, or devices as a report has them. What the file alone lets be verified is verified.
"""


def declare(commands: Commands) -> None:
    """Add the commands."""
    keygen = commands.add_parser(
        "keygen",
        help="make an owner's key",
        description="Write a new owner's private keys to FILE (mode 0600) and the public one to FILE.pub.",
    )
    keygen.add_argument("file", type=Path, metavar="FILE", help="a file that does not exist yet")
    keygen.set_defaults(run=_keygen, report_error_code=EXIT_USAGE)

    seal = commands.add_parser(
        "seal", help="seal files into a package", description=_SEAL, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    seal.add_argument("source", nargs="+", type=Path, metavar="DIR|FILE", help="one directory, or files")
    seal.add_argument("--owner", required=True, type=Path, metavar="FILE", help="the owner's key, as `glasshouse keygen` made it")
    seal.add_argument("-o", "--out", required=True, type=Path, metavar="OUT", help="the package; it must not exist")
    seal.add_argument("--name", default="files", metavar="NAME", help="the workload's name in the manifest (default: files)")
    seal.add_argument(
        "--confidential", action="store_true", help="refuse a raw leg on this package (a base model always is confidential)"
    )
    seal.set_defaults(run=_seal, report_error_code=EXIT_USAGE)

    inspect = commands.add_parser(
        "inspect", help="show a package, a manifest or evidence of a device", description=_INSPECT,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    inspect.add_argument("file", type=Path, metavar="PACKAGE|MANIFEST|EVIDENCE")
    inspect.add_argument("--owner", metavar="PUB", help="the owner's public key: a file, or the key itself")
    inspect.add_argument("--manifest", type=Path, metavar="FILE", help="the package's manifest (default: PACKAGE.manifest)")
    inspect.set_defaults(run=_inspect, report_error_code=EXIT_USAGE)


def _keygen(options: argparse.Namespace) -> int:
    from pytest_glasshouse.owner.keyfiles import write_owner
    from pytest_glasshouse.owner.owner import Owner
    from pytest_glasshouse.wire.whole_file import refuse_unwritable

    refuse_unwritable(options.file, what="keygen", make_parents=True)
    owner = Owner.generate()
    public = write_owner(options.file, owner)
    write_lines([f"private  {options.file}", f"public   {public}", f"owner    {owner.kid}"])
    return EXIT_OK


def _seal(options: argparse.Namespace) -> int:
    from pytest_glasshouse.owner.keyfiles import read_owner
    from pytest_glasshouse.owner.sealing import sealing
    from pytest_glasshouse.wire.whole_file import refuse_unwritable

    refuse_unwritable(options.out, what="--out")
    owner = read_owner(options.owner, what="--owner")
    targets = [options.out, _with_suffix(options.out, ".manifest"), _with_suffix(options.out, ".key")]
    for target in targets:
        refuse_unwritable(target, what="--out")
        if os.path.lexists(target):
            raise ConfigurationError(f"--out: {target} exists; choose another name")
    parts: Mapping[str, bytes | PartSource]
    model = _is_model(options.source)
    if model:
        workload, parts = _model(options.source[0])
    else:
        workload, parts = {"name": options.name}, dict(_parts(options.source))
    sealed = sealing(
        parts, owner=owner, run="", round_nonce=secrets.token_hex(32), workload=workload,
        confidential=options.confidential or model,
    )  # fmt: skip
    _write_new(targets[0], _shown(sealed.pieces(), sealed.size))
    _write_new(targets[1], [sealed.manifest.encode() + b"\n"])
    _write_new(targets[2], [owner.seal_data_key(sealed.data_key, manifest_sha256=sealed.manifest_sha256)])
    write_lines([
        *([f"model     {workload['model_id']}, confidential: rows that name it have no raw leg"] if model else []),
        f"package   {targets[0]} ({sealed.size} bytes, {len(parts)} parts and a canary)",
        f"manifest  {targets[1]} (sha256 {sealed.manifest_sha256})",
        f"key       {targets[2]} (sealed to its owner)",
    ])  # fmt: skip
    return EXIT_OK


def _shown(pieces: Iterable[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    """The pieces as they come; of a large package, how far it is, on standard error."""
    over, done, shown = sys.stderr.isatty(), 0, 0
    for piece in pieces:
        yield piece
        done += len(piece)
        if size > _SHOWN_FROM and (percent := 100 * done // size) >= shown + _EVERY_PERCENT:
            shown = percent
            write_line(f"sealed {done >> 20} of {size >> 20} MiB ({percent} %)", out=sys.stderr, over=over)
    if over and shown:
        write_line("", out=sys.stderr)


def _is_model(sources: list[Path]) -> bool:
    """Whether one directory is given, and has the files of a causal language model."""
    directory = sources[0]
    has = directory.is_dir() and all((directory / name).is_file() for name in ("config.json", "tokenizer.json"))
    return len(sources) == 1 and has and any(directory.glob("*.safetensors"))


def _model(directory: Path) -> tuple[dict[str, Json], Mapping[str, bytes | PartSource]]:
    from pytest_glasshouse.legs.sealed_model import claims_of
    from pytest_glasshouse.workloads.lora_material import resolve, sealed_parts

    base = resolve(f"{directory.resolve()}")
    names, parts = sealed_parts(base)
    return claims_of(base, names, parts), parts


def _parts(sources: list[Path]) -> Iterator[tuple[str, PartFile]]:
    from pytest_glasshouse.wire.package import is_part_name
    from pytest_glasshouse.wire.part_file import PartFile

    if len(sources) == 1 and sources[0].is_dir():
        sources = sorted(path for path in sources[0].iterdir() if path.is_file())
    if not sources:
        raise ConfigurationError("seal: expected files, saw an empty directory")
    seen: set[str] = set()
    for path in sources:
        if not is_part_name(path.name) or path.name in seen:
            why = "appears twice" if path.name in seen else "cannot name a part; use lower case letters, digits, `.`, `-`, `_`"
            raise ConfigurationError(f"{path}: {path.name!r} {why}")
        seen.add(path.name)
        yield path.name, PartFile.of(path)


def _inspect(options: argparse.Namespace) -> int:
    from pytest_glasshouse.cli.evidence_words import about_evidence
    from pytest_glasshouse.wire.bounded_file import mapped
    from pytest_glasshouse.wire.package import MAGIC
    from pytest_glasshouse.wire.tokens import TOKEN_LIMIT

    content = mapped(options.file)
    if content[: len(MAGIC)] == MAGIC:
        manifest = options.manifest or _with_suffix(options.file, ".manifest")
        token = _text(bytes(mapped(manifest)[: TOKEN_LIMIT + 1])) if options.manifest is not None or manifest.is_file() else None
        lines = _about_package(content, token, options.owner)
    elif options.manifest is not None:
        raise ConfigurationError(f"{options.file} is not a package, so --manifest does not describe it; name the package")
    elif (devices := _devices(content)) is not None:
        lines = (line for name, item in devices.items() for line in about_evidence(name, item, now=int(time.time())))
    else:
        lines = _about_manifest(_text(bytes(content[: TOKEN_LIMIT + 1])), options.owner)
    # Whatever is refused is refused before anything is written.
    write_lines(list(lines))
    return EXIT_OK


def _devices(content: memoryview) -> dict[str, DeviceEvidence] | None:
    """The evidence of devices in a file, None where there is none."""
    from pytest_glasshouse.attestation.evidence_file import read_evidence_file
    from pytest_glasshouse.wire.hardware import RELEASE_LIMIT

    try:
        return read_evidence_file(bytes(content[: 2 * RELEASE_LIMIT + 1]))
    except IntegrityError:
        return None


def _about_package(content: memoryview, token: str | None, owner: str | None) -> Iterator[str]:
    from pytest_glasshouse.wire.package import FORMAT, parse_header

    header = parse_header(content)
    yield f"{FORMAT}: {len(content)} bytes, package {header.package}"
    yield f"header sha256 {header.sha256}, segments of {header.segment} bytes"
    names = [printable(part.name) for part in header.parts]
    width = max(map(len, names))
    for name, part in zip(names, header.parts, strict=True):
        yield f"  {name:{width}}  {part.size} bytes, sealed {part.length}"
    if token is None:
        if owner is not None:
            raise ConfigurationError(
                "inspect: there is no manifest beside the package that --owner could have signed; use --manifest"
            )
        yield "no manifest: nothing shows which owner sealed this package"
        return
    claims = _claims(token, owner)
    if claims["header_sha256"] != header.sha256 or claims["sealed_bytes"] != len(content):
        raise IntegrityError("manifest", "it describes another package")
    yield from _claim_lines(claims, token, owner)


def _about_manifest(token: str, owner: str | None) -> Iterator[str]:
    yield from _claim_lines(_claims(token, owner), token, owner)


def _claims(token: str, owner: str | None) -> Mapping[str, Json]:
    from pytest_glasshouse.owner.keyfiles import read_public
    from pytest_glasshouse.owner.sealing import MANIFEST_SHAPE, read_manifest
    from pytest_glasshouse.wire.tokens import expect, peek

    if owner is not None:
        return read_manifest(token, owner=read_public(owner, what="--owner"))
    try:
        claims = peek(token)
        expect(claims, MANIFEST_SHAPE)
    except IntegrityError:
        raise ConfigurationError("inspect: expected a package, a manifest or evidence of a device, saw none") from None
    return claims


def _claim_lines(claims: Mapping[str, Json], token: str, owner: str | None) -> Iterator[str]:
    from pytest_glasshouse.wire.canonical import sha256_hex

    signer = _plain(claims["iss"])
    signature = f"not verified: signed in the name of {signer}; give --owner" if owner is None else f"signed by {signer}"
    yield f"manifest {sha256_hex(token.encode())}: {signature}"
    for name in sorted(claims.keys() - {"iss"}):
        yield f"  {name}: {_plain(claims[name])}"


def _plain(value: Json) -> str:
    """Untrusted text on one line, without anything that a terminal would interpret."""
    return json_text(value, indent=None, sort_keys=True)


def _text(content: bytes) -> str:
    try:
        return content.decode("ascii").strip()
    except UnicodeDecodeError:
        raise ConfigurationError("inspect: expected a package, a manifest or evidence of a device, saw none") from None


def _with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write_new(path: Path, content: Iterable[bytes | memoryview]) -> None:
    """Write a file that must not be there, piece by piece. What could not be written to its end is removed."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
            try:
                for piece in content:
                    stream.write(piece)
            except BaseException:
                path.unlink()
                raise
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror})") from None
