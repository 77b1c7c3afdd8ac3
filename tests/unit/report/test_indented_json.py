"""Reports are written as the standard library writes JSON with indents, byte for byte."""

from __future__ import annotations

import enum
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_glasshouse.report.indented_json import indented_json
from tests.unit.report import example


class Name(enum.StrEnum):
    A = "a"


_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_VALUES = st.recursive(_SCALARS, lambda below: st.lists(below) | st.dictionaries(st.text(), below), max_leaves=20)


def by_the_standard(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


@given(value=_VALUES)
@settings(max_examples=200, deadline=None, database=None)
def test_every_value_is_written_as_by_the_standard_library(value: object) -> None:
    assert indented_json(value) == by_the_standard(value)


def test_report_is_written_as_by_the_standard_library() -> None:
    document = example.document(example.measured(), example.excluded())

    assert indented_json(document) == by_the_standard(document)


@pytest.mark.parametrize(
    "value", [{1: 2}, {None: [1]}, {"a": (1, 2), "b": ()}, [Name.A, {Name.A: Name.A}], {"a": {}, "b": []}, True, -0.0, 1e22]
)
def test_unusual_types_are_written_as_by_the_standard_library(value: object) -> None:
    assert indented_json(value) == by_the_standard(value)


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": object()}, {("a",): 1}])
def test_what_is_no_json_is_refused_as_by_the_standard_library(value: object) -> None:
    with pytest.raises((ValueError, TypeError)) as expected:
        by_the_standard(value)
    with pytest.raises(type(expected.value)):
        indented_json(value)
