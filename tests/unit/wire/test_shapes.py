from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.shapes import Fields, Flag, Items, Maybe, NamedMembers, OneOf, Row, Shape, Text, Whole

NAME = Text(most=3, pattern="[a-z]+")
PAIR = Fields({"a": Whole()}, {"b": Flag()})

FITS: list[tuple[Shape, Any]] = [
    (Whole(), 0), (Whole(), 2**53 - 1), (Whole(low=-2, high=2), -2), (Flag(), False), (Text(most=3), ""), (Text(most=3), "é x"),
    (NAME, "abc"), (OneOf(("a", "b")), "b"), (Maybe(Flag()), None), (Maybe(Flag()), True), (Items(of=Flag(), most=2), []),
    (Items(of=Flag(), most=2, least=1), [True, False]), (Row([Flag(), Whole()]), [True, 1]),
    (NamedMembers(name=NAME, of=Whole(), most=2), {"a": 1, "b": 2}), (PAIR, {"a": 1}), (PAIR, {"a": 1, "b": True}),
]  # fmt: skip
DOES_NOT: list[tuple[Shape, Any]] = [
    (Whole(), -1), (Whole(), 2**53), (Whole(), True), (Whole(), "1"), (Whole(), None), (Flag(), 1), (Flag(), None),
    (Text(most=3), "abcd"), (Text(most=3), "\n"), (Text(most=3), "\x1b"), (Text(most=3), "\u202e"), (Text(most=3), 1),
    (Text(most=3), None), (NAME, ""), (NAME, "a\n"), (NAME, "A"), (OneOf(("a", "b")), "c"), (OneOf(("a", "b")), ["a"]),
    (Maybe(Flag()), 0), (Items(of=Flag(), most=2), [True] * 3), (Items(of=Flag(), most=2, least=1), []),
    (Items(of=Flag(), most=2), [1]), (Items(of=Flag(), most=2), {}), (Row([Flag(), Whole()]), [True]),
    (Row([Flag(), Whole()]), [True, 1, 1]), (Row([Flag(), Whole()]), [1, 1]), (Row([Flag()]), "x"),
    (NamedMembers(name=NAME, of=Whole(), most=2), {"a": 1, "b": 2, "c": 3}), (NamedMembers(name=NAME, of=Whole(), most=2), {"A": 1}),
    (NamedMembers(name=NAME, of=Whole(), most=2), {"a": -1}), (NamedMembers(name=NAME, of=Whole(), most=2), []), (PAIR, {}), (PAIR, {"b": True}),
    (PAIR, {"a": 1, "c": 1}), (PAIR, {"a": -1}), (PAIR, {"a": 1, "b": 1}), (PAIR, [1]), (PAIR, None),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "value"), FITS)
def test_a_value_that_fits_is_accepted(shape: Shape, value: Any) -> None:
    """A shape that is too narrow raises."""
    shape.check(value, "x")


@pytest.mark.parametrize(("shape", "value"), DOES_NOT)
def test_a_value_that_does_not_fit_is_refused_with_its_place(shape: Shape, value: Any) -> None:
    with pytest.raises(ProtocolError, match=r"x\b"):
        shape.check(value, "x")


def test_a_fault_is_named_with_its_place() -> None:
    with pytest.raises(ProtocolError, match=r"^x\.rows\[1\]\.a: expected an integer from 0 to \d+, saw str y$"):
        Fields({"rows": Items(of=PAIR, most=3)}).check({"rows": [{"a": 1}, {"a": "y"}]}, "x")


@pytest.mark.parametrize("value", ["y" * 10_000_000, ["y"] * 10_000, {"y" * 100_000: 1}, "\x1b[2J::error::", 10**300])
def test_an_error_shows_little_of_what_it_refuses(value: Any) -> None:
    """The error, with untrusted text in it, reaches a terminal."""
    with pytest.raises(ProtocolError) as caught:
        PAIR.check({"a": value}, "x")
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
    assert "::error" not in str(caught.value)
