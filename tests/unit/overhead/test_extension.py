"""One decision, from the spread of the first rounds alone."""

from __future__ import annotations

import math

import pytest

from pytest_glasshouse.overhead.extension import rounds_needed
from pytest_glasshouse.overhead.interval import Sampling, interval_pct, t_quantile

FIRST = [-0.010, -0.014, -0.006, -0.012, -0.008]


def test_number_of_rounds_is_steins() -> None:
    spread = math.sqrt(sum((x + 0.01) ** 2 for x in FIRST) / 4)

    found = rounds_needed(FIRST, half_width_pct=0.2, max_rounds=1000)

    assert found.wanted == math.ceil((t_quantile(0.975, 4) * spread / math.asinh(0.002)) ** 2)
    assert found.rounds == found.wanted


def test_interval_after_the_extension_is_as_narrow_as_was_asked_whatever_the_later_rounds_show() -> None:
    found = rounds_needed(FIRST, half_width_pct=0.2, max_rounds=1000)
    wild = [*FIRST, *([0.05, -0.07] * found.rounds)][: found.rounds]

    interval = interval_pct(wild, level=0.95, sampling=Sampling(first_rounds=5))

    assert interval is not None
    assert interval.half_width <= 0.2 * 1.01


def test_decision_does_not_depend_on_where_the_interval_lies() -> None:
    """Extending because a result is nearly what one hoped for is how a null becomes a finding."""
    here, there = (rounds_needed([x + shift for x in FIRST], half_width_pct=0.2, max_rounds=99) for shift in (0.0, 0.3))

    assert here.rounds == there.rounds


def test_first_rounds_that_are_narrow_enough_are_not_extended() -> None:
    assert rounds_needed(FIRST, half_width_pct=50, max_rounds=99).rounds == 5


def test_budget_cuts_the_extension_and_is_named_as_the_reason() -> None:
    found = rounds_needed(FIRST, half_width_pct=0.2, max_rounds=7)

    assert found.rounds == 7
    assert found.wanted > 7


def test_budget_below_the_rounds_that_ran_removes_none() -> None:
    assert rounds_needed(FIRST, half_width_pct=0.2, max_rounds=2).rounds == 5


@pytest.mark.parametrize(("first", "half_width"), [([-0.01], 0.2), (FIRST, 0.0), (FIRST, math.nan), (FIRST, -1.0)])
def test_input_that_allows_no_decision_is_refused(first: list[float], half_width: float) -> None:
    with pytest.raises(ValueError):
        rounds_needed(first, half_width_pct=half_width, max_rounds=10)
