"""The message of a test that asserts some invariants, about those that did not hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, InvariantBroken
from pytest_glasshouse.invariants import Finding
from pytest_glasshouse.invariants.judging import assert_held


def test_count_is_of_what_the_test_asserts() -> None:
    """A row is judged by all invariants; a test that asserts two of them shows nothing about the others."""
    states: Any = ("held", "broken")
    asserted: list[Any] = [
        lambda _seen, state=state: Finding(invariant=f"{state} one", finding=state, evidence="", reason="why") for state in states
    ]
    outcome: Any = SimpleNamespace(observation={}, ended=None)
    with pytest.raises(
        InvariantBroken, match=r"^1 of the 2 invariants this test asserts did not hold\n  BROKEN  broken one: why"
    ):
        assert_held(outcome, *asserted)


def test_test_that_asserts_no_invariant_is_refused() -> None:
    """It could not fail, whatever the row did."""
    outcome: Any = SimpleNamespace(observation={}, ended=None)
    with pytest.raises(ConfigurationError, match="names no invariant: expected at least one"):
        assert_held(outcome)
