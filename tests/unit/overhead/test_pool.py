"""Pools: three allocations or no figure, and the published rows as what they are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_1samp

from pytest_glasshouse.overhead.interval import log_ratio, overhead_of_log_ratio, rate
from pytest_glasshouse.overhead.pool import RANDOM_EFFECTS, T_OVER_MEANS, pool
from pytest_glasshouse.overhead.verdict import Verdict, verdict

DATA = Path(__file__).parents[2] / "data" / "published_rows.json"
PUBLISHED: list[dict[str, Any]] = json.loads(DATA.read_text("utf-8"))["rows"]


def published_log_ratio(row: dict[str, Any]) -> float:
    if "protectedUnits" in row:
        return log_ratio(rate(row["protectedUnits"], row["protectedElapsedSec"]), rate(row["rawUnits"], row["rawElapsedSec"]))
    return log_ratio(row["protectedRate"], row["rawRate"])


def long_enough(row: dict[str, Any]) -> bool:
    """15 minutes or more, or 30 000 steps or more."""
    return (row.get("targetSec") or 0) >= 900 or (row.get("stepBudget") or 0) >= 30_000


@pytest.mark.parametrize("row", PUBLISHED, ids=[f"{n}-{row['overheadPct']}" for n, row in enumerate(PUBLISHED)])
def test_every_published_row_is_a_single_sample(row: dict[str, Any]) -> None:
    found = verdict([published_log_ratio(row)], margin_pct=1.0)

    assert found.verdict is Verdict.SINGLE_SAMPLE


def test_seven_long_qwen_rows_pooled_are_equivalent_within_a_point() -> None:
    rows = [row for row in PUBLISHED if row["workload"] == "qwen-lora" and long_enough(row)]

    found = pool([[published_log_ratio(row)] for row in rows], margin_pct=1.0)

    assert len(rows) == 7
    assert found is not None
    assert found.judged.verdict is Verdict.EQUIVALENT
    assert round(found.pct, 2) == 0.38
    assert (round(found.ci95.low, 2), round(found.ci95.high, 2)) == (-0.28, 1.03)
    assert found.estimator == T_OVER_MEANS


def test_sixteen_long_rows_pooled_are_inconclusive() -> None:
    """What the rest of the published table supports: an interval from below -1 to above 5."""
    rows = [row for row in PUBLISHED if long_enough(row)]

    found = pool([[published_log_ratio(row)] for row in rows], margin_pct=1.0)

    assert found is not None
    assert found.judged.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_allocations_have_no_figure(count: int) -> None:
    assert pool([[-0.01, -0.02]] * count, margin_pct=1.0) is None


def test_allocation_without_a_round_is_not_counted() -> None:
    assert pool([[-0.01], [-0.02], []], margin_pct=1.0) is None


def test_single_rounds_are_pooled_by_students_t() -> None:
    values = [-0.01, -0.012, -0.003, -0.02]

    found = pool([[value] for value in values], margin_pct=1.0)

    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert found is not None
    assert math.isclose(found.ci95.low, overhead_of_log_ratio(expected.high))
    assert math.isclose(found.ci95.high, overhead_of_log_ratio(expected.low))


def test_random_effects_reproduce_a_worked_example() -> None:
    """Equal numbers of rounds give equal weights, and Hartung-Knapp is then Student's t over the means if they differ enough."""
    allocations = [[m - 0.001, m, m + 0.001] for m in (-0.01, -0.03, -0.05, -0.02)]

    found = pool(allocations, margin_pct=1.0)

    expected = ttest_1samp([-0.01, -0.03, -0.05, -0.02], 0).confidence_interval(0.95)
    assert found is not None
    assert found.estimator == RANDOM_EFFECTS
    assert math.isclose(found.ci95.high, overhead_of_log_ratio(expected.low), rel_tol=1e-9)
    between = sum((m + 0.0275) ** 2 for m in (-0.01, -0.03, -0.05, -0.02)) / 3 - 0.001**2 / 3
    assert found.between_pct is not None
    assert math.isclose(found.between_pct, 100 * math.sqrt(between), rel_tol=1e-6)


def test_allocations_that_agree_by_chance_do_not_make_a_pool_surer_than_its_rounds() -> None:
    same = pool([[-0.02, 0.0], [-0.02, 0.0], [-0.02, 0.0]], margin_pct=1.0)

    assert same is not None
    assert same.between_pct == 0
    assert same.ci95.half_width > 1.0


def test_allocation_with_more_rounds_counts_for_more_where_allocations_are_alike() -> None:
    few, many = [-0.030, -0.028, -0.032], [-0.029, -0.031] * 20
    found = pool([few, many, [-0.031, -0.029]], margin_pct=1.0)

    assert found is not None
    assert found.rounds == 45
    assert abs(found.pct - overhead_of_log_ratio(-0.03)) < 0.01


def test_inconclusive_pool_asks_for_allocations_and_not_for_rounds() -> None:
    found = pool([[-0.05], [0.05], [0.0]], margin_pct=1.0)

    assert found is not None
    assert found.judged.verdict is Verdict.INCONCLUSIVE
    assert "more allocations" in found.judged.reason
    assert found.judged.more_rounds is None
