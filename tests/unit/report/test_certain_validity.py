"""What is passed over as certainly valid is valid for jsonschema, and a sound report is passed over nearly whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from pytest_glasshouse.report.certain_validity import CertainValidity
from pytest_glasshouse.report.schema import load_schema
from tests.unit.report import example

SCHEMA = load_schema()
DOCUMENT: Any = example.document(example.measured(), example.excluded(), example.lost())
_CHECKER = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
#: Nothing in it is ours but what an integer is.
ORACLE: Any = extend(Draft202012Validator, type_checker=_CHECKER)(  # type: ignore[no-untyped-call]
    SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER
)
SCALARS: list[Any] = [
    None, True, False, 0, 1, -1, 2, 4, 100, 0.0, 1.0, 0.5, -0.5, 1e308, float("nan"), 2**60, "", "a", "raw", "protected", "1.0",
    "0" * 64, "A" * 43, "2026-11-20T17:00:00Z", "2026-13-40T17:00:00Z", "overhead", "x\n", "held",
]  # fmt: skip
CONTAINERS: list[Any] = [
    [], {}, [1.0], [1.0, 2.0], [1.0, 2.0, 3.0], ["raw", "raw"], ["raw", "protected"], [[]], {"rate": 1}, {"a": {"overhead": 1}},
    {"a": [{"perSec": 1}]}, {"plain": 1}, {"x/y": 1}, {"targetSec": 1.0}, {"bytes": None, "reason": None},
]  # fmt: skip


OTHERS: tuple[Any, ...] = (None, True, -1, 0.5, "", "x", [], {})


def parts(value: Any) -> Iterator[Any]:
    """Every part of a schema that is an object: those that are no schemas have no keyword that is known, or are as good as one."""
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from parts(below)


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for below in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from objects(below)


def changed(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield value
    yield {**value, "unheardOf": 1}
    for name in value:
        yield {other: value[other] for other in value if other != name}
        yield from ({**value, name: another} for another in OTHERS)


def schemas() -> list[Any]:
    keywords = {"type", "enum", "const", "$ref", "anyOf", "properties", "items", "minimum", "pattern", "not", "required"}
    found = {json.dumps(part, sort_keys=True): part for part in parts(SCHEMA) if part.keys() & keywords and part is not SCHEMA}
    return [part for part in found.values() if not any(type(part.get(name)) is dict for name in ("type", "enum", "pattern"))]


def test_no_value_is_certain_that_jsonschema_refuses() -> None:
    certain, tried = CertainValidity(SCHEMA), 0

    for part in schemas():
        for value in (*SCALARS, *CONTAINERS):
            if certain.holds(value, part):
                tried += 1
                assert ORACLE.evolve(schema=part).is_valid(value), (part, value)

    assert tried > 1000


@pytest.mark.parametrize("name", ["row", "excludedResult", "observation", "seen", "environment", "cleanup", "generatedBy"])
def test_no_changed_object_is_certain_that_jsonschema_refuses(name: str) -> None:
    certain = CertainValidity(SCHEMA)
    definitions: Any = SCHEMA["$defs"]
    named: Any = SCHEMA["properties"]
    part = definitions[name] if name in definitions else named[name]

    for whole in list(objects(DOCUMENT))[:30]:
        for value in changed(whole):
            if certain.holds(value, part):
                assert ORACLE.evolve(schema=part).is_valid(value), value


def test_sound_report_is_certain_but_for_what_only_jsonschema_knows() -> None:
    """Without it every check of a report takes ten times as long."""
    certain = CertainValidity(SCHEMA)
    definitions: Any = SCHEMA["$defs"]

    assert all(certain.holds(row, definitions["row"]) for row in DOCUMENT["rows"])
    assert all(certain.holds(row, definitions["excludedResult"]) for row in DOCUMENT["excludedResults"])
    assert all(certain.holds(DOCUMENT[name], SCHEMA["properties"][name]) for name in ("cleanup", "keys", "environment"))  # type: ignore[index,call-overload]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "string", "unheardOf": 1}, {"not": {"type": "string"}}, {"$ref": "#/properties/x"}, {"$ref": "#/$defs/none"},
        {"items": False, "patternProperties": {}}, {"additionalProperties": True, "patternProperties": {}}, False,
        {"oneOf": [{"minLength": 1}]}, {"if": {"minimum": 1}}, {"then": {}}, {"if": {"properties": {"a": {"const": 1}}}},
        {"format": "date-time"}, {"const": 1.0}, {"enum": [[1]]},
    ],
)  # fmt: skip
def test_what_is_not_understood_is_never_certain(part: Any) -> None:
    certain = CertainValidity({"$defs": {}, "parts": part})

    assert not any(certain.holds(value, part) for value in (*SCALARS, *CONTAINERS))


def test_keywords_are_taken_as_in_the_standard() -> None:
    """A keyword passes over values that it is not about; a boolean is no number, and 1 is not 1.0."""
    schema = {"minimum": 1}
    certain = CertainValidity(schema)
    passed: list[Any] = [1, 1.5, True, "x", None, [], {}]
    assert all(certain.holds(value, schema) for value in passed)
    assert not any(certain.holds(value, schema) for value in (0, 0.5, float("nan")))
    cases: list[tuple[Any, Any, Any]] = [
        ({"const": 1}, 1, True),
        ({"enum": ["a", None]}, None, 0),
        ({"type": ["integer", "null"]}, 1, 1.0),
        ({"required": ["a"]}, [], {}),
        ({"propertyNames": {"maxLength": 1}}, {"a": 1}, {"ab": 1}),
        ({"properties": {"a": {"type": "null"}}, "additionalProperties": False}, {"a": None}, {"b": None}),
        ({"properties": {"a": True}, "additionalProperties": {"type": "null"}}, {"a": 1, "b": None}, {"b": 1}),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, {"a": 1}, {"a": 1, "b": 1}),
        ({"if": {"properties": {"a": {"const": True}}}, "then": {"required": ["b"]}}, {"a": 1}, {"a": True}),
        ({"if": {"required": ["a"]}, "else": {"required": ["b"]}}, {"a": 1}, {}),
        ({"prefixItems": [{"type": "null"}], "items": False}, [None], [None, None]),
        ({"uniqueItems": True}, ["a", "b"], ["a", "a"]),
        ({"anyOf": [{"type": "null"}, {"minItems": 1, "type": "array"}]}, [0], []),
    ]
    for part, yes, no in cases:
        assert CertainValidity(part).holds(yes, part), part
        assert not CertainValidity(part).holds(no, part), part
