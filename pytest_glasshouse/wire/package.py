"""The sealed package's byte format: magic, header length, canonical header, then one FLOE message per part, back to back.

Knows the layout and refuses every other one, so a header has one meaning. Refuses to know keys: `owner.sealing` writes
packages, `guest.opener` opens them. The chain is manifest -> SHA-256 of the header -> each part's commitment (its FLOE
header, which commits to key and context) -> every byte, without hashing gigabytes.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import Json, canonical, is_sha256, parse_object, sha256_hex
from pytest_glasshouse.wire.tokens import expect

MAGIC = b"GLASSHOUSE-PACKAGE/1\n"
FORMAT = "glasshouse-package/1"
HEADER_LIMIT = 1 << 20
PARTS_LIMIT = 4096
#: The part that is made for one round and that the raw leg never gets.
CANARY = "canary"
#: The beginnings of the names of a sealed base model's parts: files that the host itself reads, and weights.
SEALED_FILE = "base."
SEALED_WEIGHTS = "weights."

_LENGTH = struct.Struct(">I")
_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_HEADER_SHAPE: dict[str, type] = {"format": str, "package": str, "segment": int, "parts": list}
_PART_SHAPE: dict[str, type] = {"name": str, "size": int, "offset": int, "length": int, "commit": str}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One sealed part: `size` bytes of plaintext, `length` of ciphertext at `offset` after the header."""

    name: str
    size: int
    offset: int
    length: int
    commit: str


@dataclass(frozen=True, kw_only=True)
class PackageHeader:
    """A package's header. `body` is where its first part begins; `sha256` is what the manifest must name."""

    package: str
    segment: int
    parts: tuple[Part, ...]
    body: int
    sha256: str

    def context(self, index: int) -> bytes:
        """The associated data part `index` was sealed under."""
        part = self.parts[index]
        return part_context(self.package, part.name, index, len(self.parts), part.size)


def is_part_name(name: str) -> bool:
    """Whether a part may be called so."""
    return _NAME.fullmatch(name) is not None


def is_confidential(name: str) -> bool:
    """Whether a part of this name is one that no raw leg may get."""
    return name.startswith((SEALED_FILE, SEALED_WEIGHTS))


def part_context(package: str, name: str, index: int, of: int, size: int) -> bytes:
    """The associated data of a part: it belongs to one package, one place, one name and one size."""
    return b"glasshouse-part/1\n" + canonical({"package": package, "part": index, "of": of, "name": name, "size": size})


def write(package: str, segment: int, parts: Sequence[tuple[str, int, bytes]]) -> bytes:
    """The package of `parts`: name, plaintext size, FLOE message."""
    headers = [(name, size, message[: floe.HEADER_BYTES]) for name, size, message in parts]
    return b"".join((head(package, segment, headers), *(message for _, _, message in parts)))


def head(package: str, segment: int, parts: Sequence[tuple[str, int, bytes]]) -> bytes:
    """What comes before the first message: `parts` are name, plaintext size, and the header of the FLOE message."""
    listed: list[Json] = []
    offset = 0
    for name, size, commit in parts:
        length = floe.cipher_length(size, segment=segment)
        listed.append({"name": name, "size": size, "offset": offset, "length": length, "commit": commit.hex()})
        offset += length
    header = canonical({"format": FORMAT, "package": package, "segment": segment, "parts": listed})
    return b"".join((MAGIC, _LENGTH.pack(len(header)), header))


def header_digest(begins: bytes) -> str:
    """The digest of the header in what `head` gave: what the manifest names."""
    return sha256_hex(begins[len(MAGIC) + _LENGTH.size :])


def parse_header(buffer: floe.Buffer) -> PackageHeader:
    """The header of a package, with every length checked against the buffer.

    Raises `IntegrityError`: `pkg-format` (not this format, or a header that names an impossible layout), `pkg-header`
    (header unreadable), `pkg-length` (bytes missing or left over).
    """
    view = memoryview(buffer).cast("B")
    start = len(MAGIC) + _LENGTH.size
    if len(view) < start or bytes(view[: len(MAGIC)]) != MAGIC:
        raise IntegrityError("pkg-format", "not a package")
    (length,) = _LENGTH.unpack(view[len(MAGIC) : start])
    if not 0 < length <= min(HEADER_LIMIT, len(view) - start):
        raise IntegrityError("pkg-header", "header length")
    raw = bytes(view[start : start + length])
    header = _read(raw)
    package, segment = header["package"], header["segment"]
    if header["format"] != FORMAT or not is_sha256(package) or not isinstance(segment, int):
        raise IntegrityError("pkg-format", "header")
    if not floe.SEGMENT_OVERHEAD < segment <= 1 << 30:
        raise IntegrityError("pkg-format", "segment")
    parts = _parts(header["parts"], segment)
    body = start + length
    if body + sum(part.length for part in parts) != len(view):
        raise IntegrityError("pkg-length", "bytes missing or left over")
    return PackageHeader(package=str(package), segment=segment, parts=parts, body=body, sha256=sha256_hex(raw))


def _read(raw: bytes) -> dict[str, Json]:
    try:
        header = parse_object(raw, limit=HEADER_LIMIT)
        expect(header, _HEADER_SHAPE)
    except IntegrityError as error:
        raise IntegrityError("pkg-header", error.detail) from None
    if canonical(header) != raw:
        raise IntegrityError("pkg-header", "not in its canonical form")
    return header


def _parts(listed: Json, segment: int) -> tuple[Part, ...]:
    """Every part follows the one before without a gap, and is as long as its size makes it: no other layout exists."""
    if not isinstance(listed, list) or not 0 < len(listed) <= PARTS_LIMIT:
        raise IntegrityError("pkg-format", "parts")
    parts: list[Part] = []
    offset = 0
    for item in listed:
        part = _part(item)
        if part.size < 0 or part.offset != offset or part.length != floe.cipher_length(part.size, segment=segment):
            raise IntegrityError("pkg-format", f"layout of part {part.name}")
        parts.append(part)
        offset += part.length
    if len({part.name for part in parts}) != len(parts):
        raise IntegrityError("pkg-format", "two parts of one name")
    return tuple(parts)


def _part(item: Json) -> Part:
    if not isinstance(item, dict):
        raise IntegrityError("pkg-format", "part")
    try:
        expect(item, _PART_SHAPE)
    except IntegrityError as error:
        raise IntegrityError("pkg-format", error.detail) from None
    part = Part(**item)  # type: ignore[arg-type]  # names and types were just checked
    if not is_part_name(part.name) or not re.fullmatch(f"[0-9a-f]{{{2 * floe.HEADER_BYTES}}}", part.commit):
        raise IntegrityError("pkg-format", "part name or commitment")
    return part
