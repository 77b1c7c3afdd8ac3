"""Intervals: over rounds only, in percent, and none where there is nothing to vary."""

from __future__ import annotations

import math

import pytest
from scipy.stats import ttest_1samp

from pytest_glasshouse.overhead.interval import (
    Interval,
    interval_pct,
    mean_overhead_pct,
    one_sided_bounds_pct,
    proportion_lower_bound,
)
from pytest_glasshouse.overhead.rates import overhead_of_log_ratio

RATIOS = [-0.010, -0.013, -0.008, -0.011, -0.012]


def test_one_round_has_no_interval() -> None:
    assert interval_pct([-0.01], level=0.95) is None
    assert one_sided_bounds_pct([-0.01]) is None


def test_interval_is_the_t_interval_of_the_log_ratios() -> None:
    expected = ttest_1samp(RATIOS, 0).confidence_interval(0.95)

    found = interval_pct(RATIOS, level=0.95)

    assert found is not None
    assert math.isclose(found.low, overhead_of_log_ratio(expected.high))
    assert math.isclose(found.high, overhead_of_log_ratio(expected.low))


def test_one_sided_bounds_are_the_ends_of_the_90_percent_interval() -> None:
    assert one_sided_bounds_pct(RATIOS) == interval_pct(RATIOS, level=0.90)


def test_interval_of_equal_rounds_is_a_point() -> None:
    found = interval_pct([-0.01, -0.01, -0.01], level=0.95)

    assert found is not None
    assert found.half_width == 0


def test_mean_lies_in_its_interval() -> None:
    found = interval_pct(RATIOS, level=0.95)

    assert found is not None
    assert found.low < mean_overhead_pct(RATIOS) < found.high


def test_mean_of_no_round_is_refused() -> None:
    with pytest.raises(ValueError, match="no round"):
        mean_overhead_pct([])


@pytest.mark.parametrize(
    ("low", "high", "inside"), [(-0.99, 0.99, True), (-1.0, 0.5, False), (-0.5, 1.0, False), (-2.0, 2.0, False)]
)
def test_interval_touching_the_margin_is_not_inside_it(low: float, high: float, inside: bool) -> None:
    assert Interval(low=low, high=high).inside(1.0) is inside


@pytest.mark.parametrize(("held", "attempted", "expected"), [(10, 10, 0.05 ** (1 / 10)), (1, 1, 0.05), (0, 5, 0.0)])
def test_lifecycle_bound_is_clopper_pearson(held: int, attempted: int, expected: float) -> None:
    found = proportion_lower_bound(held, attempted)

    assert found is not None
    assert math.isclose(found, expected, abs_tol=1e-9)


def test_lifecycle_bound_of_nothing_attempted_is_none() -> None:
    assert proportion_lower_bound(0, 0) is None


@pytest.mark.parametrize(("held", "attempted"), [(2, 1), (-1, 3)])
def test_more_held_than_attempted_is_refused(held: int, attempted: int) -> None:
    with pytest.raises(ValueError, match="between 0 and attempted"):
        proportion_lower_bound(held, attempted)
