"""Reads DER, the encoding of certificates and their extensions (X.690): one value after another, to the last byte.

Knows tags and lengths. Refuses what has two spellings: indefinite and overlong lengths, tags of several bytes, bytes after the
end.
"""

from __future__ import annotations

from dataclasses import dataclass

from pytest_glasshouse.errors import IntegrityError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, OID, UTF8_STRING, IA5_STRING = 0x01, 0x02, 0x03, 0x04, 0x06, 0x0C, 0x16
SEQUENCE, SET = 0x30, 0x31
_HIGH_TAG, _LONG, _MOST_LENGTH_BYTES = 0x1F, 0x80, 3
_MOST_OID_BYTES = 32


@dataclass(frozen=True, kw_only=True)
class Value:
    """One value: its tag, its contents, and all of its bytes."""

    tag: int
    body: bytes
    whole: bytes

    def children(self) -> list[Value]:
        """The values in a constructed one. Raises `IntegrityError("der")`."""
        found, rest = [], self.body
        while rest:
            first, rest = _first(rest)
            found.append(first)
        return found

    def text(self) -> str:
        """The characters of a string that is plain ASCII. Raises `IntegrityError("der")`."""
        try:
            return self.body.decode("ascii")
        except UnicodeDecodeError:
            raise IntegrityError("der", "not ASCII") from None

    def number(self) -> int:
        """An integer. Raises `IntegrityError("der")`."""
        body = self.body
        long = len(body) > 1 and (body[0], body[1] >> 7) in ((0, 0), (0xFF, 1))
        if self.tag != INTEGER or not body or long:
            raise IntegrityError("der", "not an integer")
        return int.from_bytes(body, "big", signed=True)

    def dotted(self) -> str:
        """An object identifier in dotted form. Raises `IntegrityError("der")`."""
        if self.tag != OID or not 0 < len(self.body) <= _MOST_OID_BYTES or self.body[-1] & _LONG:
            raise IntegrityError("der", "not an object identifier")
        arcs, arc = [], 0
        for byte in self.body:
            arc = arc << 7 | byte & 0x7F
            if not byte & _LONG:
                arcs.append(arc)
                arc = 0
        top = min(arcs[0] // 40, 2)
        return ".".join(map(str, (top, arcs[0] - 40 * top, *arcs[1:])))


def read(data: bytes) -> Value:
    """The one value that `data` is. Raises `IntegrityError("der")`."""
    value, rest = _first(data)
    if rest:
        raise IntegrityError("der", "bytes after the end")
    return value


def sequence(data: bytes) -> list[Value]:
    """The values of the sequence that `data` is. Raises `IntegrityError("der")`."""
    value = read(data)
    if value.tag != SEQUENCE:
        raise IntegrityError("der", "not a sequence")
    return value.children()


def _first(data: bytes) -> tuple[Value, bytes]:
    if len(data) < 2 or data[0] & _HIGH_TAG == _HIGH_TAG:  # noqa: PLR2004
        raise IntegrityError("der", "cut off, or a tag of several bytes")
    length, start = data[1], 2
    if length & _LONG:
        size = length & 0x7F
        start += size
        spelled = data[2:start]
        length = int.from_bytes(spelled, "big")
        # The shortest form only: none for less than 128, and no leading zero.
        if not 0 < size <= _MOST_LENGTH_BYTES or len(spelled) < size or not spelled[0] or length < _LONG:
            raise IntegrityError("der", "a length in another form")
    end = start + length
    if end > len(data):
        raise IntegrityError("der", "cut off")
    return Value(tag=data[0], body=data[start:end], whole=data[:end]), data[end:]
