"""Tells in microseconds that a value validates against a part of a schema; what it cannot tell, jsonschema decides.

jsonschema makes an object for each value and each part that it compares, and nearly all of a report is in order. The answer is
True only for keywords, and types of their values, that are understood here as the validator takes them (JSON Schema 2020-12,
"integer" without floats); False says nothing. As there, a keyword passes over values of the types that it is not about.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
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
_MEMBERS = frozenset({"properties", "propertyNames", "additionalProperties"})
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
            return (lambda _value: True) if part is True else _uncertain
        # `prefixItems` and `patternProperties`, which say what others are about, are understood as little as any other keyword.
        conditions = [self._condition(keyword, part) for keyword in part if keyword not in _NO_CONDITION]
        if any(each is _uncertain for each in conditions):
            return _uncertain
        if len(conditions) == 1:
            return conditions[0]
        return lambda value: all(holds(value) for holds in conditions)

    def _condition(self, keyword: str, part: Mapping[str, Any]) -> Holds:
        meant = part[keyword]
        if keyword in _SCALAR:
            return _SCALAR[keyword](meant)
        if keyword == "$ref":
            return self._reference(meant)
        if keyword == "anyOf":
            alternatives = [self._of(each) for each in meant]
            return lambda value: any(holds(value) for holds in alternatives)
        if keyword == "items":
            return lambda value: not isinstance(value, list) or all(map(self._of(meant), value))
        return self._members(keyword, part) if keyword in _MEMBERS else _uncertain

    def _members(self, keyword: str, part: Mapping[str, Any]) -> Holds:
        """One of the keywords about an object's members."""
        meant, named = part[keyword], part.get("properties", {})
        if keyword == "propertyNames":
            return lambda value: not isinstance(value, dict) or all(map(self._of(meant), value))
        if keyword == "properties":
            return lambda value: (
                not isinstance(value, dict)
                or all(name not in value or self._of(below)(value[name]) for name, below in named.items())
            )
        if meant is False:
            return lambda value: not isinstance(value, dict) or value.keys() <= named.keys()
        return lambda value: (
            not isinstance(value, dict) or all(self._of(meant)(value[name]) for name in value if name not in named)
        )

    def _reference(self, reference: str) -> Holds:
        _, found, name = reference.partition("#/$defs/")
        if not found or name not in self._definitions:
            return _uncertain

        def holds(value: object) -> bool:
            return self.holds(value, self._definitions[name])  # found only now: a definition may refer to itself

        return holds


def _uncertain(_value: object) -> bool:
    return False


def _type(names: str | list[str]) -> Holds:
    kinds = [_TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    return kinds[0] if len(kinds) == 1 else lambda value: any(holds(value) for holds in kinds)


def _same(meant: Any) -> Holds:
    """1, 1.0 and true are different here, so that fewer values are certain."""
    return lambda value: (
        type(value) is type(meant) and value == meant if type(meant) in (str, int, bool) else value is meant is None
    )


def _enum(meant: list[Any]) -> Holds:
    each = [_same(one) for one in meant]
    return lambda value: any(holds(value) for holds in each)


def _pattern(meant: str) -> Holds:
    search = re.compile(meant).search
    return lambda value: not isinstance(value, str) or search(value) is not None


def _not(meant: Any) -> Holds:
    """Only of a pattern, which everything that is no string satisfies."""
    if not isinstance(meant, dict) or meant.keys() != {"pattern"}:
        return _uncertain
    search = re.compile(meant["pattern"]).search
    return lambda value: type(value) is str and search(value) is None


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
    "minProperties": _length(dict, lambda length, meant: length >= meant),
    "maxProperties": _length(dict, lambda length, meant: length <= meant),
    "required": lambda meant: lambda value: not isinstance(value, dict) or all(name in value for name in meant),
}
