"""Tells in microseconds that a value validates against a part of a schema; what it cannot tell, jsonschema decides.

jsonschema makes an object for each value and each part that it compares, and nearly all of a report is in order. The answer is
True only for keywords, and types of their values, that are understood here as the validator takes them (JSON Schema 2020-12,
"integer" without floats); False says nothing. As there, a keyword passes over values of the types that it is not about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any, TypeAlias

Holds: TypeAlias = "Callable[[Any], bool]"

_TYPES: dict[str, Holds] = {
    "string": lambda value: type(value) is str,
    "integer": lambda value: type(value) is int,
    "number": lambda value: type(value) is float or type(value) is int,
    "boolean": lambda value: type(value) is bool,
    "null": lambda value: value is None,
    "array": lambda value: type(value) is list,
    "object": lambda value: type(value) is dict,
}
_DECIDED = frozenset({"oneOf", "if", "then", "else"})
_MEMBERS = frozenset({"properties", "propertyNames", "additionalProperties"})
#: Lists of this length are compared for equal items; `report.schema` allows more.
_FEW = 32
_NO_CONDITION = frozenset({"title", "description", "$defs", "$schema", "$id"})


class CertainValidity:
    """The parts of one schema, each compiled when it is first asked about."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._definitions = schema.get("$defs", {})
        #: By identity, for as long as the schema is held here.
        self._schema = schema
        self._compiled: dict[int, Holds] = {}

    def holds(self, value: object, part: Any) -> bool:
        """Whether `value` certainly validates against `part`, which is a part of this schema."""
        return self._of(part)(value)

    def _of(self, part: Any) -> Holds:
        made = self._compiled.get(id(part))
        if made is None:
            made = self._compiled[id(part)] = self._compile(part)
        return made

    def _compile(self, part: Any) -> Holds:
        if not isinstance(part, dict):
            return _passes if part is True else _uncertain
        # `patternProperties`, which says what others are about, is understood as little as any other keyword.
        conditions = [self._condition(keyword, part) for keyword in part if keyword not in _NO_CONDITION]
        return _uncertain if _uncertain in conditions else _all(conditions)

    def _condition(self, keyword: str, part: Mapping[str, Any]) -> Holds:
        meant = part[keyword]
        if keyword in _SCALAR:
            return _SCALAR[keyword](meant)
        if keyword == "$ref":
            return self._reference(meant)
        if keyword in ("anyOf", "allOf"):
            parts = [self._of(each) for each in meant]
            return _any(parts) if keyword == "anyOf" else _all(parts)
        if keyword in ("items", "prefixItems"):
            return self._items(keyword, part)
        if keyword in _DECIDED:
            return self._decided(keyword, part)
        return self._members(keyword, part) if keyword in _MEMBERS else _uncertain

    def _items(self, keyword: str, part: Mapping[str, Any]) -> Holds:
        meant, first = part[keyword], len(part.get("prefixItems", ()))
        if keyword == "prefixItems":
            each = [self._of(one) for one in meant]
            return lambda value: not isinstance(value, list) or all(holds(one) for holds, one in zip(each, value, strict=False))
        return lambda value: not isinstance(value, list) or all(map(self._of(meant), value[first:] if first else value))

    def _decided(self, keyword: str, part: Mapping[str, Any]) -> Holds:
        """A keyword that asks whether something does not validate: only where that can be told, too."""
        meant = part[keyword]
        if keyword in ("then", "else"):
            return _passes if "if" in part else _uncertain
        decisions = [_decision(each) for each in (meant if keyword == "oneOf" else [meant])]
        known = [each for each in decisions if each is not None]
        if len(known) < len(decisions):
            return _uncertain
        if keyword == "oneOf":
            return lambda value: sum(decide(value) for decide in known) == 1
        yes, no = self._of(part.get("then", True)), self._of(part.get("else", True))
        return lambda value: yes(value) if known[0](value) else no(value)

    def _members(self, keyword: str, part: Mapping[str, Any]) -> Holds:
        """One of the keywords about an object's members."""
        meant, named = part[keyword], part.get("properties", {})
        if keyword == "propertyNames":
            return lambda value: not isinstance(value, dict) or all(map(self._of(meant), value))
        if keyword == "properties":
            return self._named(named)
        if meant is False:
            return lambda value: not isinstance(value, dict) or value.keys() <= named.keys()
        return lambda value: (
            not isinstance(value, dict) or all(self._of(meant)(value[name]) for name in value if name not in named)
        )

    def _named(self, named: Mapping[str, Any]) -> Holds:
        known: dict[str, Holds] = {}  # each compiled when it is first met: a definition may refer to itself

        def holds(value: object) -> bool:
            for name, one in value.items() if isinstance(value, dict) else ():
                held = known.get(name)
                if held is None:
                    held = known[name] = self._of(named[name]) if name in named else _passes
                if not held(one):
                    return False
            return True

        return holds

    def _reference(self, reference: str) -> Holds:
        _, found, name = reference.partition("#/$defs/")
        if not found or name not in self._definitions:
            return _uncertain

        part = self._definitions[name]

        def holds(value: object) -> bool:
            return self._of(part)(value)  # compiled only now: a definition may refer to itself

        return holds


def _uncertain(_value: object) -> bool:
    return False


def _passes(_value: object) -> bool:
    return True


def _all(conditions: Sequence[Holds]) -> Holds:
    if len(conditions) == 1:
        return conditions[0]

    def holds(value: object) -> bool:
        for each in conditions:  # noqa: SIM110  (a generator takes twice the time)
            if not each(value):
                return False
        return True

    return holds


def _any(conditions: Sequence[Holds]) -> Holds:
    def holds(value: object) -> bool:
        for each in conditions:  # noqa: SIM110  (a generator takes twice the time)
            if each(value):
                return True
        return False

    return holds


def _decision(part: Any) -> Holds | None:
    """Whether a value validates, yes or no; None for a part that has more than types, constants and required members."""
    if not isinstance(part, dict) or not part.keys() <= {"type", "const", "required", "properties"}:
        return None
    if "const" in part and type(part["const"]) not in (bool, str):
        return None
    below = {name: _decision(member) for name, member in part.get("properties", {}).items()}
    members = {name: decide for name, decide in below.items() if decide is not None}
    if len(members) < len(below):
        return None
    conditions = [_SCALAR[keyword](part[keyword]) for keyword in ("type", "const", "required") if keyword in part]
    return _all([*conditions, lambda value: not isinstance(value, dict) or all(_each(members, value))])


def _each(decisions: Mapping[str, Holds], value: Mapping[str, object]) -> Iterator[bool]:
    return (decide(value[name]) for name, decide in decisions.items() if name in value)


def _type(names: str | list[str]) -> Holds:
    return _any([_TYPES[name] for name in ([names] if isinstance(names, str) else names)])


def _same(meant: Any) -> Holds:
    """1, 1.0 and true are different here, so that fewer values are certain."""
    return lambda value: (
        type(value) is type(meant) and value == meant if type(meant) in (str, int, bool) else value is meant is None
    )


def _enum(meant: list[Any]) -> Holds:
    texts = frozenset(one for one in meant if isinstance(one, str))
    others = _any([_same(one) for one in meant if not isinstance(one, str)])
    return lambda value: value in texts if type(value) is str else others(value)


def _pattern(meant: str) -> Holds:
    search = re.compile(meant).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _not(meant: Any) -> Holds:
    """Only of a pattern, which everything that is no string satisfies."""
    if not isinstance(meant, dict) or meant.keys() != {"pattern"}:
        return _uncertain
    search = re.compile(meant["pattern"]).search
    return lambda value: type(value) is str and search(value) is None


def _required(names: frozenset[str]) -> Holds:
    return lambda value: not isinstance(value, dict) or value.keys() >= names


def _unique_texts(value: object) -> bool:
    """Only of few texts: `report.schema` refuses longer lists, and what else is equal is a question of its own."""
    if not isinstance(value, list):
        return True
    return len(value) <= _FEW and all(type(each) is str for each in value) and len(set(value)) == len(value)


def _bound(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Holds]:
    return lambda meant: lambda value: isinstance(value, bool) or not isinstance(value, int | float) or compare(value, meant)


def _length(kind: type[Sized], compare: Callable[[int, int], bool]) -> Callable[[Any], Holds]:
    return lambda meant: lambda value: not isinstance(value, kind) or compare(len(value), meant)


_SCALAR: dict[str, Callable[[Any], Holds]] = {
    "type": _type,
    "const": _same,
    "enum": _enum,
    "pattern": _pattern,
    "not": _not,
    "minimum": _bound(lambda value, meant: value >= meant),
    "maximum": _bound(lambda value, meant: value <= meant),
    "exclusiveMinimum": _bound(lambda value, meant: value > meant),
    "exclusiveMaximum": _bound(lambda value, meant: value < meant),
    "minLength": _length(str, lambda length, meant: length >= meant),
    "maxLength": _length(str, lambda length, meant: length <= meant),
    "minItems": _length(list, lambda length, meant: length >= meant),
    "maxItems": _length(list, lambda length, meant: length <= meant),
    "uniqueItems": lambda meant: _unique_texts if meant is True else _uncertain,
    "minProperties": _length(dict, lambda length, meant: length >= meant),
    "maxProperties": _length(dict, lambda length, meant: length <= meant),
    "required": lambda meant: _required(frozenset(meant)),
}
