"""The difference of two rows is wider than either, and two single samples have none."""

from __future__ import annotations

import random

import pytest
from scipy.stats import ttest_ind

from pytest_glasshouse.overhead.difference import difference
from pytest_glasshouse.overhead.interval import log_ratio, overhead_of_log_ratio

BEFORE = [-0.010, -0.012, -0.009, -0.011, -0.010]
AFTER = [-0.020, -0.024, -0.019, -0.022, -0.021, -0.018]


def test_interval_is_that_of_welchs_test() -> None:
    """scipy's own test is the oracle, of samples that are overheads already: the two scales agree to a few thousandths here."""
    first, second = ([overhead_of_log_ratio(each) for each in side] for side in (BEFORE, AFTER))
    oracle = ttest_ind(second, first, equal_var=False).confidence_interval(0.95)

    found = difference(BEFORE, AFTER)

    assert found.ci95 is not None
    assert (found.ci95.low, found.ci95.high) == pytest.approx((oracle.low, oracle.high), abs=0.003)
    assert found.ci95.low < found.points < found.ci95.high
    assert found.ci95.low > 0


def test_difference_is_in_points_of_overhead() -> None:
    """It was the change of the rate ratio, which the words beside it did not say: -11.88 for overheads of 14 and 2.4."""
    before, after = [log_ratio(100 - 14.0, 100)] * 3, [log_ratio(100 - 2.4, 100)] * 3

    assert difference(before, after).points == pytest.approx(-11.6)


def test_one_round_on_either_side_has_no_interval() -> None:
    assert difference(BEFORE, [-0.02]).ci95 is None
    assert difference([-0.02], AFTER).ci95 is None
    with pytest.raises(ValueError, match="both sides"):
        difference([], AFTER)


def test_rows_without_spread_differ_exactly() -> None:
    found = difference([-0.01, -0.01], [-0.02, -0.02])

    assert found.ci95 is not None
    assert found.ci95.low == found.ci95.high == pytest.approx(found.points)


def test_interval_covers_no_difference_at_its_nominal_rate() -> None:
    """Seed, count and margin stand here before the first run: 95 % of 2000 within three standard errors of a proportion."""
    draw = random.Random(20261121)
    covered = 0
    for _ in range(2000):
        before = [draw.gauss(-0.01, 0.004) for _ in range(6)]
        after = [draw.gauss(-0.01, 0.012) for _ in range(8)]
        interval = difference(before, after).ci95
        assert interval is not None
        covered += interval.low <= 0 <= interval.high

    assert abs(covered / 2000 - 0.95) < 3 * (0.95 * 0.05 / 2000) ** 0.5
