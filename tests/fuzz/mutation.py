"""Changes to valid bytes and valid JSON, chosen by the bytes of a fuzzer or of hypothesis."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

#: What is put where something else belongs: other types, ends of ranges, texts that mean something elsewhere.
STRANGE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**64, 10**400, -(10**400), 0.0, -0.0, 1e308, 5e-324, "", "0", "x" * 300,
    "..", "../..", "\x00", "\ud800", "é" * 64, "0" * 64, "A" * 43, "a.b.c", "[]", '{"seq":0}', [], [None], [[]], [[[[]]]], {}, {"": None},
    {"sha256": "0"}, ["protected", "raw"],
)  # fmt: skip
_LONGEST = 1 << 20


class Tape:
    """Numbers and bytes read from the fuzzer's input; zeros when it is used up."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, below: int) -> int:
        """A number from 0 to `below` - 1, of as many bytes as that needs."""
        size = max(1, (max(below - 1, 0).bit_length() + 7) // 8)
        return int.from_bytes(self.take(size), "big") % max(below, 1)

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        piece = self._data[self._at : self._at + size].ljust(size, b"\0")
        self._at += size
        return piece


def changed_bytes(base: bytes, tape: Tape) -> bytes:
    """`base` with bytes replaced, cut out, put in, doubled and moved."""
    out = bytearray(base)
    while tape and len(out) < _LONGEST:
        act, at, size = tape.number(6), tape.number(len(out) + 1), tape.number(64)
        if act == 0 and at < len(out):
            out[at] ^= 1 + tape.number(255)
        elif act == 1:
            del out[at : at + size]
        elif act == 2:
            out[at:at] = tape.take(size)
        elif act == 3:
            out[at:at] = out[at : at + size]
        elif act == 4:
            del out[at:]
        else:
            piece = tape.take(1 + size % 8)
            out[at : at + len(piece)] = piece
    return bytes(out)


def changed_json(base: Any, tape: Tape) -> Any:
    """A copy of `base` with values replaced by strange ones or by others of its own, members dropped and added."""
    root = {"": copy.deepcopy(base)}
    while tape:
        holder, key = _place(root, tape)
        act = tape.number(5)
        if act == 0:
            holder[key] = copy.deepcopy(STRANGE[tape.number(len(STRANGE))])
        elif act == 1:
            other, there = _place(root, tape)
            holder[key] = copy.deepcopy(other[there])
        elif act == 2 and isinstance(holder, dict):
            if holder is not root:
                del holder[key]
        elif act == 3 and isinstance(holder, list):
            holder.insert(tape.number(len(holder) + 1), copy.deepcopy(holder[key]))
        elif isinstance(holder[key], str):
            holder[key] = changed_bytes(holder[key].encode("utf-8", "surrogatepass"), Tape(tape.take(6))).decode(
                "utf-8", "replace"
            )
        elif isinstance(holder[key], int | float) and abs(holder[key]) < 2**63:
            holder[key] += tape.number(256) - 128
        if _size(root) > _LONGEST:
            break
    return root[""]


def _place(root: Any, tape: Tape) -> tuple[Any, Any]:
    """Some place in the value, found by walking down."""
    holder, key = root, ""
    while True:
        value = holder[key]
        if not isinstance(value, dict | list) or not value or tape.number(8) == 7:
            return holder, key
        keys: Sequence[Any] = list(value) if isinstance(value, dict) else range(len(value))
        holder, key = value, keys[tape.number(len(keys))]


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(_size(each) for each in value.values())
    return 1 + sum(map(_size, value)) if isinstance(value, list) else 1
