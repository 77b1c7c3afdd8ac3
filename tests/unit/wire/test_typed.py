"""A value of another type is refused with its place and both types, and never shown."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.typed import check_typed


class Inner(TypedDict):
    name: str


class Outer(TypedDict):
    share: float
    kind: Literal["raw", "protected"]
    target: NotRequired[str | int | None]
    inner: Inner | None


GOOD: dict[str, Any] = {"share": 0.5, "kind": "raw", "inner": None}


@pytest.mark.parametrize("changes", [{}, {"share": 1}, {"target": 3}, {"target": None}, {"inner": {"name": "a", "later": []}}])
def test_value_of_its_type_is_returned_as_it_is(changes: dict[str, Any]) -> None:
    value = {**GOOD, **changes}
    assert check_typed(value, Outer, "it") is value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": "secret"}, "it.share: expected a number, saw a text"),
        ({"share": True}, "it.share: expected a number, saw true or false"),
        ({"kind": 1}, "it.kind: expected raw or protected, saw an integer"),
        ({"kind": "secret"}, "it.kind: expected raw or protected, saw another text"),
        ({"target": ["secret"]}, "it.target: expected a text or an integer or null, saw a list"),
        ({"target": True}, "it.target: expected a text or an integer or null, saw true or false"),
        ({"inner": {"name": None}}, "it.inner.name: expected a text, saw null"),
        ({"inner": "secret"}, "it.inner: expected an object, saw a text"),
    ],
)
def test_value_of_another_type_is_refused_with_its_place(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_typed({**GOOD, **changes}, Outer, "it")
    assert str(caught.value) == message
