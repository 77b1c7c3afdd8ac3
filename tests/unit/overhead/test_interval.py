"""Units and seconds in, percent out; intervals over rounds only, and none where nothing can vary."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.special import betaincinv
from scipy.stats import binomtest, ttest_1samp

from pytest_glasshouse.overhead.interval import (
    Interval,
    interval_pct,
    log_ratio,
    mean_overhead_pct,
    one_sided_bounds_pct,
    overhead_of_log_ratio,
    overhead_pct,
    proportion_lower_bound,
    rate,
)

DATA = Path(__file__).parents[2] / "data" / "published_rows.json"
PUBLISHED: list[dict[str, Any]] = json.loads(DATA.read_text("utf-8"))["rows"]
RATIOS = [-0.010, -0.013, -0.008, -0.011, -0.012]


def rates_of(row: dict[str, Any]) -> tuple[float, float]:
    """From units and seconds where they were published, else from the published rates."""
    if "protectedUnits" in row:
        return rate(row["protectedUnits"], row["protectedElapsedSec"]), rate(row["rawUnits"], row["rawElapsedSec"])
    return row["protectedRate"], row["rawRate"]


def test_all_22_published_rows_are_in_the_data() -> None:
    assert len(PUBLISHED) == 22


@pytest.mark.parametrize("row", PUBLISHED, ids=[f"{n}-{row['overheadPct']}" for n, row in enumerate(PUBLISHED)])
def test_published_overhead_recomputes_to_two_decimals(row: dict[str, Any]) -> None:
    """A reader must be able to get every figure again with the formula the report prints."""
    protected, raw = rates_of(row)

    assert f"{overhead_pct(protected, raw):.2f}" == f"{row['overheadPct']:.2f}"


@pytest.mark.parametrize(("units", "seconds"), [(0, 1), (1, 0), (-1, 1), (1, -1), (math.nan, 1), (1, math.inf)])
def test_rate_of_no_measured_leg_is_refused(units: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        rate(units, seconds)


@pytest.mark.parametrize(("protected", "raw"), [(0, 1), (1, 0), (math.nan, 1), (1, math.inf)])
def test_overhead_of_impossible_rates_is_refused(protected: float, raw: float) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        overhead_pct(protected, raw)


def test_overhead_of_a_log_ratio_is_the_overhead_of_the_ratio() -> None:
    assert math.isclose(overhead_of_log_ratio(log_ratio(98.0, 100.0)), overhead_pct(98.0, 100.0))


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


def test_lifecycle_bound_agrees_with_scipy_to_the_digits_that_check_compares() -> None:
    for attempted in (1, 2, 7, 48, 500):
        for held in range(0, attempted + 1, max(1, attempted // 7)):
            expected = binomtest(held, attempted, alternative="greater").proportion_ci(confidence_level=0.95, method="exact").low

            assert proportion_lower_bound(held, attempted) == pytest.approx(expected, rel=1e-9)


def test_lifecycle_bound_where_all_held_is_the_closed_form_to_the_last_digit() -> None:
    """Reports that were made with the inverse of the incomplete beta function hold the same number."""
    found = [proportion_lower_bound(count, count) for count in range(1, 2001)]
    assert found == [float(betaincinv(count, 1, 1 - 0.95)) for count in range(1, 2001)]


def test_lifecycle_bound_of_nothing_attempted_is_none() -> None:
    assert proportion_lower_bound(0, 0) is None


@pytest.mark.parametrize(("held", "attempted"), [(2, 1), (-1, 3)])
def test_more_held_than_attempted_is_refused(held: int, attempted: int) -> None:
    with pytest.raises(ValueError, match="between 0 and attempted"):
        proportion_lower_bound(held, attempted)
