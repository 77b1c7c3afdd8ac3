"""The sealed package, changed. Opening it must fail and leave no plaintext behind."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable

from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.owner.sealing import read_manifest
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import SEGMENT, Editable, TamperTestbed
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.package import MAGIC, Part, parse_header

PackageEdit = Callable[[bytearray], bytes | bytearray]
_HEADER_AT = len(MAGIC) + 4


def _open(testbed: TamperTestbed, package: bytes, *, manifest_follows: bool, key: bytes | None = None) -> None:
    attempt = testbed.attempt()
    secret = attempt.unseal(attempt.release())
    if key is not None:
        secret.close()
        secret = LockedSecret.take(key)
    claims = read_manifest(testbed.sealed.manifest, owner=testbed.owner.public)
    if manifest_follows:
        (length,) = struct.unpack(">I", package[len(MAGIC) : _HEADER_AT])
        claims["header_sha256"] = sha256_hex(package[_HEADER_AT : _HEADER_AT + length])
    try:
        attempt.open(secret, package, claims)
    finally:
        secret.close()


def _case(name: str, reason: str, caught_by: str, play: Callable[[TamperTestbed], None]) -> Case:
    return Case(name=f"package-{name}", play=play, expected_reason=reason, caught_by=caught_by, asset="plaintext")


def _bytes(name: str, reason: str, caught_by: str, edit: PackageEdit) -> Case:
    """Changed bytes of the package, with the signed manifest."""
    return _case(
        name, reason, caught_by,
        lambda testbed: _open(testbed, bytes(edit(bytearray(testbed.sealed.package))), manifest_follows=False),
    )  # fmt: skip


def _body(name: str, reason: str, caught_by: str, edit: Callable[[bytearray, Part, int], None]) -> Case:
    """Changed bytes of the second part's message: `edit(package, part, offset of the message)`."""

    def play(testbed: TamperTestbed) -> None:
        header = parse_header(testbed.sealed.package)
        package = bytearray(testbed.sealed.package)
        part = header.parts[1]
        edit(package, part, header.body + part.offset)
        _open(testbed, bytes(package), manifest_follows=False)

    return _case(name, reason, caught_by, play)


def _header(name: str, reason: str, caught_by: str, edit: Callable[[Editable], None]) -> Case:
    """A changed header with a manifest that matches it, so that only the encryption's binding refuses it."""

    def play(testbed: TamperTestbed) -> None:
        package = testbed.sealed.package
        (length,) = struct.unpack(">I", package[len(MAGIC) : _HEADER_AT])
        header = json.loads(package[_HEADER_AT : _HEADER_AT + length])
        edit(header)
        raw = canonical(header)
        body = package[_HEADER_AT + length :]
        _open(testbed, MAGIC + struct.pack(">I", len(raw)) + raw + body, manifest_follows=True)

    return _case(f"header-{name}", reason, caught_by, play)


def _flip(at: int) -> Callable[[bytearray, Part, int], None]:
    """One bit, `at` bytes into the message."""

    def edit(package: bytearray, part: Part, begin: int) -> None:
        package[begin + (at if at >= 0 else part.length + at)] ^= 1

    return edit


def _segments(order: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytearray, Part, int], None]:
    """The inner segments of the message, rearranged; the length is unchanged."""

    def edit(package: bytearray, part: Part, begin: int) -> None:
        start, end = begin + floe.HEADER_BYTES, begin + part.length
        inner = [bytes(package[at : at + SEGMENT]) for at in range(start, end - SEGMENT, SEGMENT)]
        package[start : start + len(inner) * SEGMENT] = b"".join(order(inner))

    return edit


def _part(index: int, **changes: object) -> Callable[[Editable], None]:
    return lambda header: header["parts"][index].update(changes)


def _commit_bit(header: Editable) -> None:
    commit = bytearray.fromhex(header["parts"][1]["commit"])
    commit[20] ^= 1
    header["parts"][1]["commit"] = commit.hex()


def _reorder(header: Editable) -> None:
    """The parts in reverse order, with matching offsets."""
    header["parts"].reverse()
    offset = 0
    for part in header["parts"]:
        part["offset"], offset = offset, offset + part["length"]


def _at(where: int, value: bytes) -> PackageEdit:
    def edit(package: bytearray) -> bytearray:
        package[where : where + len(value)] = value
        return package

    return edit


def _header_byte(package: bytearray) -> bytearray:
    at = package.index(b'"package":"') + len(b'"package":"')
    package[at] = ord("0") if package[at] != ord("0") else ord("1")
    return package


CASES = (
    _case(
        "key-of-another",
        "pkg-commit",
        "floe header tag",
        lambda testbed: _open(testbed, testbed.sealed.package, manifest_follows=False, key=bytes(range(32))),
    ),
    _case(
        "key-too-short",
        "pkg-commit",
        "floe key",
        lambda testbed: _open(testbed, testbed.sealed.package, manifest_follows=False, key=bytes(range(31))),
    ),
    _case("of-another-manifest", "pkg-header", "open_package", lambda s: _open(s, s.seal().package, manifest_follows=False)),
    _bytes("magic", "pkg-format", "parse_header", _at(0, b"g")),
    _bytes("four-bytes", "pkg-format", "parse_header", lambda package: package[:4]),
    _bytes("empty", "pkg-format", "parse_header", lambda _: b""),
    _bytes("header-length-none", "pkg-header", "parse_header", _at(len(MAGIC), bytes(4))),
    _bytes("header-length-4-gb", "pkg-header", "parse_header", _at(len(MAGIC), b"\xff" * 4)),
    _bytes("header-byte", "pkg-header", "open_package", _header_byte),
    _bytes("header-not-json", "pkg-header", "parse_header", _at(_HEADER_AT, b"[")),
    _bytes("cut-by-a-byte", "pkg-length", "parse_header", lambda package: package[:-1]),
    _bytes("final-segment-missing", "pkg-length", "parse_header", lambda package: package[:-100]),
    _bytes("trailing-byte", "pkg-length", "parse_header", lambda package: package + b"\x00"),
    _body("ciphertext-bit", "pkg-integrity", "floe segment", _flip(floe.HEADER_BYTES + 20)),
    _body("tag-bit", "pkg-integrity", "floe segment", _flip(-1)),
    _body("segment-nonce-bit", "pkg-integrity", "floe segment", _flip(floe.HEADER_BYTES + 5)),
    _body("length-word-bit", "pkg-integrity", "floe segment", _flip(floe.HEADER_BYTES)),
    _body("commitment-bit", "pkg-commit", "open_package", _flip(50)),
    _body("iv-bit", "pkg-commit", "open_package", _flip(12)),
    _body("segment-length-edited", "pkg-commit", "open_package", _flip(5)),
    _body("segments-swapped", "pkg-integrity", "floe segment", _segments(lambda s: [s[1], s[0], *s[2:]])),
    _body("segment-twice", "pkg-integrity", "floe segment", _segments(lambda s: [s[0], s[0], *s[2:]])),
    _header("part-renamed", "pkg-commit", "floe header tag", _part(1, name="renamed")),
    _header("package-id-other", "pkg-commit", "floe header tag", lambda h: h.update(package=sha256_hex(b"another"))),
    _header("parts-reordered", "pkg-commit", "open_package", _reorder),
    _header("part-dropped", "pkg-length", "parse_header", lambda h: h["parts"].pop()),
    _header("part-smaller", "pkg-format", "parse_header", lambda h: h["parts"][1].update(size=h["parts"][1]["size"] - 1)),
    _header("part-size-negative", "pkg-format", "parse_header", _part(1, size=-1)),
    _header("part-name-twice", "pkg-format", "parse_header", _part(1, name="config")),
    _header("part-name-a-path", "pkg-format", "parse_header", _part(1, name="../config")),
    _header("parts-overlapping", "pkg-format", "parse_header", _part(1, offset=0)),
    _header("parts-none", "pkg-format", "parse_header", lambda h: h.update(parts=[])),
    _header("part-commitment-other", "pkg-commit", "open_package", _commit_bit),
    _header("format-other", "pkg-format", "parse_header", lambda h: h.update(format="glasshouse-package/0")),
    _header("segment-other", "pkg-format", "parse_header", lambda h: h.update(segment=SEGMENT // 2)),
    _header("field-nobody-asked-for", "pkg-header", "parse_header", lambda h: h.update(plain=True)),
)
