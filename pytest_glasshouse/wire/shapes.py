"""Shapes of untrusted values: small tables, and how a value is checked against one.

Knows types, ranges, lengths and letters. Does not know what any message means: the tables are in `guest_messages`. No shape
holds itself, so a value that fits has no more depth than its table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.canonical import INTEGER_LIMIT, Json
from pytest_glasshouse.wire.printable import printable

#: How much of a wrong value an error shows, in characters.
_SHOWN = 40


class Shape(Protocol):
    """One kind of value. `check` raises `ProtocolError` with the place, what was expected and what was seen."""

    def check(self, value: Json, where: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An integer from `low` to `high`; True is none."""

    low: int = 0
    high: int = INTEGER_LIMIT

    def check(self, value: Json, where: str) -> None:
        if type(value) is not int or not self.low <= value <= self.high:
            raise wrong(where, f"an integer from {self.low} to {self.high}", value)


@dataclass(frozen=True, kw_only=True)
class Flag:
    """True or False."""

    def check(self, value: Json, where: str) -> None:
        if type(value) is not bool:
            raise wrong(where, "true or false", value)


@dataclass(frozen=True, kw_only=True)
class Text:
    """At most `most` characters that can be seen; with `pattern`, all of it matches."""

    most: int
    pattern: str = ""

    def check(self, value: Json, where: str) -> None:
        if not isinstance(value, str) or len(value) > self.most:
            raise wrong(where, f"a text of at most {self.most} characters", value)
        if not (re.fullmatch(self.pattern, value) if self.pattern else value.isprintable()):
            raise wrong(where, f"a text like {self.pattern}" if self.pattern else "a text without control characters", value)


@dataclass(frozen=True)
class OneOf:
    """One of a few strings."""

    words: tuple[str, ...]

    def check(self, value: Json, where: str) -> None:
        if not isinstance(value, str) or value not in self.words:
            raise wrong(where, " or ".join(self.words[:_SHOWN]), value)


@dataclass(frozen=True)
class Maybe:
    """Null, or a value of `shape`."""

    shape: Shape

    def check(self, value: Json, where: str) -> None:
        if value is not None:
            self.shape.check(value, where)


@dataclass(frozen=True, kw_only=True)
class Items:
    """A list of `least` to `most` values of one shape."""

    of: Shape
    most: int
    least: int = 0

    def check(self, value: Json, where: str) -> None:
        if not isinstance(value, list) or not self.least <= len(value) <= self.most:
            raise wrong(where, f"a list of {self.least} to {self.most}", value)
        for number, item in enumerate(value):
            self.of.check(item, f"{where}[{number}]")


@dataclass(frozen=True)
class Row:
    """A list with a shape for each place."""

    of: Sequence[Shape]

    def check(self, value: Json, where: str) -> None:
        if not isinstance(value, list) or len(value) != len(self.of):
            raise wrong(where, f"a list of {len(self.of)}", value)
        for number, (shape, item) in enumerate(zip(self.of, value, strict=True)):
            shape.check(item, f"{where}[{number}]")


@dataclass(frozen=True, kw_only=True)
class NamedMembers:
    """An object of at most `most` members whose names are data; all members have one shape."""

    name: Shape
    of: Shape
    most: int

    def check(self, value: Json, where: str) -> None:
        if not isinstance(value, dict) or len(value) > self.most:
            raise wrong(where, f"an object of at most {self.most} members", value)
        for name, item in value.items():
            self.name.check(name, f"a name in {where}")
            self.of.check(item, f"{where}.{name}")


@dataclass(frozen=True)
class Fields:
    """An object of exactly these members, and of `optional` ones that may be missing."""

    members: Mapping[str, Shape]
    optional: Mapping[str, Shape] = field(default_factory=dict)

    def check(self, value: Json, where: str) -> None:
        if not isinstance(value, dict):
            raise wrong(where, "an object", value)
        if missing := self.members.keys() - value.keys():
            raise ProtocolError(f"{where}: expected {', '.join(sorted(missing))}, saw none")
        for name, item in value.items():
            shape = self.members.get(name) or self.optional.get(name)
            if shape is None:
                raise ProtocolError(f"{where}: expected no member {printable(name, limit=_SHOWN)}")
            shape.check(item, f"{where}.{name}")


def wrong(where: str, expected: str, seen: object) -> ProtocolError:
    """The error of a value that does not fit. A long value is not spelled out before it is cut."""
    kind = type(seen).__name__
    shown = f"{kind} of {len(seen)}" if isinstance(seen, dict | list) else f"{kind} {_cut(seen)}"
    return ProtocolError(f"{where}: expected {expected}, saw {shown}")


def _cut(seen: object) -> str:
    return printable(seen[: _SHOWN + 1] if isinstance(seen, str) else seen, limit=_SHOWN)
