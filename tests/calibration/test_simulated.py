"""Estimates and verdicts on simulated traces: do they cover the truth, and does every verdict occur at its documented rate?

Seeds, counts and bands were written down before each run. `CALIBRATE=1` (or `SOAK=1`) runs 4 000 rows a cell;
the default run takes the same code through few rows and wide bands. docs/measuring.md lists every run.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from functools import cache

import numpy as np
import pytest

from pytest_glasshouse.overhead.estimate import estimates
from pytest_glasshouse.overhead.interval import Sampling, interval_pct
from pytest_glasshouse.overhead.pool import pool
from pytest_glasshouse.overhead.remarks import remarks
from pytest_glasshouse.overhead.verdict import Verdict, judge_limit, verdict
from tests.calibration.traces import HOSTILE, QUIET, REGIMES, RENTED, Regime, interleaved, sequential_log_ratios

FULL = bool(os.environ.get("CALIBRATE") or os.environ.get("SOAK"))
ROWS = 4000 if FULL else 120
ROUNDS = 6
START_SPREAD = 0.002
MARGIN_PCT = 1.0
TRUTHS = (0.0, 0.5, 1.0, 2.0)
#: The third run's. The rates stated below are those of the first run, from seed 20 261 121; the second shared seeds with it.
SEED = 31_000_000
#: How far a share of ROWS rows may lie from what is true of all rows: four standard errors, in the default run only.
SLACK = 0.0 if FULL else 4 * math.sqrt(0.05 * 0.95 / ROWS)

FOUND_ABOVE_0 = {Verdict.MEASURABLE, Verdict.BELOW_MARGIN}
INSIDE_MARGIN = {Verdict.EQUIVALENT, Verdict.BELOW_MARGIN}
CELLS = [(regime, truth) for regime in REGIMES for truth in TRUTHS]


#: Share of rows with each verdict: six rounds of nine pairs of 20 s, process starts that differ by 0.2 %, margin 1 %.
STATED: dict[tuple[str, float], dict[Verdict, float]] = {
    ("quiet", 0.0): {Verdict.EQUIVALENT: 0.975, Verdict.BELOW_MARGIN: 0.025},
    ("quiet", 0.5): {Verdict.EQUIVALENT: 0.16, Verdict.BELOW_MARGIN: 0.76, Verdict.MEASURABLE: 0.07},
    ("quiet", 1.0): {Verdict.MEASURABLE: 0.95, Verdict.BELOW_MARGIN: 0.05},
    ("quiet", 2.0): {Verdict.MEASURABLE: 1.0},
    ("rented", 0.0): {Verdict.EQUIVALENT: 0.70, Verdict.BELOW_MARGIN: 0.02, Verdict.INCONCLUSIVE: 0.28},
    ("rented", 0.5): {
        Verdict.EQUIVALENT: 0.24, Verdict.BELOW_MARGIN: 0.31, Verdict.MEASURABLE: 0.13, Verdict.INCONCLUSIVE: 0.32,
    },
    ("rented", 1.0): {Verdict.MEASURABLE: 0.69, Verdict.BELOW_MARGIN: 0.04, Verdict.INCONCLUSIVE: 0.28},
    ("rented", 2.0): {Verdict.MEASURABLE: 0.74, Verdict.INCONCLUSIVE: 0.26},
    ("hostile", 0.0): {Verdict.EQUIVALENT: 0.035, Verdict.INCONCLUSIVE: 0.96},
    ("hostile", 0.5): {Verdict.EQUIVALENT: 0.015, Verdict.MEASURABLE: 0.01, Verdict.INCONCLUSIVE: 0.97},
    ("hostile", 1.0): {Verdict.MEASURABLE: 0.045, Verdict.INCONCLUSIVE: 0.955},
    ("hostile", 2.0): {Verdict.MEASURABLE: 0.06, Verdict.INCONCLUSIVE: 0.94},
}  # fmt: skip


@cache
def cell(regime: Regime, truth: float) -> tuple[float, float, Counter[Verdict], Counter[str]]:
    """Share of rows whose headline and whose companion cover the truth, and how often every verdict and remark came."""
    seed = SEED + 100 * REGIMES.index(regime) + TRUTHS.index(truth)
    given = interleaved(regime, rows=ROWS, rounds=ROUNDS, overhead_pct=truth, start_spread=START_SPREAD, seed=seed)
    covered = trimmed = 0
    verdicts: Counter[Verdict] = Counter()
    remarked: Counter[str] = Counter()
    for rounds in given:
        found = estimates(rounds)
        assert found.headline.ci95 is not None
        assert found.trimmed.ci95 is not None
        covered += found.headline.ci95.contains(truth)
        trimmed += found.trimmed.ci95.contains(truth)
        found_remarks = remarks(found)
        judged = verdict(found.log_ratios, margin_pct=MARGIN_PCT, nulls=found.nulls, remarks=found_remarks)
        verdicts[judged.verdict] += 1
        remarked["disagree"] += found.agree is False
        remarked["outliers"] += found.outliers.one_sided
        remarked["null"] += not all(null.qualifies(MARGIN_PCT) for null in found.nulls)
    shown = ", ".join(f"{each_verdict.value} {count / ROWS:.1%}" for each_verdict, count in sorted(verdicts.items()))
    print(f"{regime.name} {truth:g} %: covers {covered / ROWS:.1%}, companion {trimmed / ROWS:.1%}; {shown}; {dict(remarked)}")
    return covered / ROWS, trimmed / ROWS, verdicts, remarked


def share(verdicts: Counter[Verdict], wanted: set[Verdict]) -> float:
    """How many of the rows had one of these verdicts."""
    return sum(verdicts[each_verdict] for each_verdict in wanted) / verdicts.total()


@pytest.mark.soak
@pytest.mark.parametrize(("regime", "truth"), CELLS)
def test_interval_covers_the_truth_at_its_nominal_rate(regime: Regime, truth: float) -> None:
    covered, _, _, _ = cell(regime, truth)

    assert 0.93 - SLACK <= covered <= 0.97 + SLACK


@pytest.mark.soak
@pytest.mark.parametrize("regime", REGIMES)
def test_zero_overhead_is_seldom_called_measurable(regime: Regime) -> None:
    _, _, verdicts, _ = cell(regime, 0.0)

    assert share(verdicts, FOUND_ABOVE_0) <= 0.04 + SLACK
    assert share(verdicts, {Verdict.IMPLAUSIBLE_NEGATIVE}) <= 0.04 + SLACK


@pytest.mark.soak
@pytest.mark.parametrize("regime", REGIMES)
def test_overhead_at_the_margin_is_seldom_called_equivalent(regime: Regime) -> None:
    _, _, verdicts, _ = cell(regime, 1.0)

    assert share(verdicts, INSIDE_MARGIN) <= 0.065 + SLACK


@pytest.mark.soak
@pytest.mark.parametrize("regime", REGIMES)
def test_overhead_of_twice_the_margin_is_never_called_equivalent(regime: Regime) -> None:
    _, _, verdicts, _ = cell(regime, 2.0)

    assert share(verdicts, INSIDE_MARGIN) <= 0.01
    assert share(verdicts, {Verdict.IMPLAUSIBLE_NEGATIVE}) <= 0.001


@pytest.mark.soak
@pytest.mark.parametrize(("regime", "truth"), CELLS)
def test_every_verdict_occurs_at_its_documented_rate(regime: Regime, truth: float) -> None:
    """What a reader may expect of six rounds of ten minutes; what is not named comes in less than 3 of 100 rows."""
    _, _, verdicts, _ = cell(regime, truth)
    tolerance = 0.03 if FULL else 0.03 + 4 * math.sqrt(0.25 / ROWS)

    for each_verdict in Verdict:
        assert abs(verdicts[each_verdict] / ROWS - STATED[regime.name, truth].get(each_verdict, 0.0)) <= tolerance, each_verdict


@pytest.mark.soak
@pytest.mark.parametrize("rounds", range(1, 13))
def test_overhead_three_points_over_the_limit_seldom_passes_it(rounds: int) -> None:
    """Interleaved and sequential rows of every regime, and noise of every size and shape that does not take sides."""
    limit_pct = 2.0
    true_log = math.log1p(-(limit_pct + 3.0) / 100)
    rng = np.random.default_rng(SEED + rounds)
    size = (ROWS, rounds)
    noises = {f"normal {spread:g}": rng.normal(0.0, spread, size) for spread in (0.0005, 0.005, 0.03, 0.1, 0.3)}
    noises |= {f"t2 {spread:g}": rng.standard_t(2, size) * spread for spread in (0.005, 0.03, 0.1)}
    noises |= {f"uniform {spread:g}": rng.uniform(-spread, spread, size) for spread in (0.01, 0.1, 0.5)}
    noises |= {f"two values {spread:g}": rng.choice([-spread, spread], size) for spread in (0.01, 0.03, 0.1)}
    few = max(100, ROWS // 10)
    for place, regime in enumerate(REGIMES):
        seed = SEED + 1000 * rounds + place
        noises[f"sequential {regime.name}"] = sequential_log_ratios(
            regime, rows=few, rounds=rounds, leg_s=120, overhead_pct=0.0, start_spread=START_SPREAD, seed=seed
        )

    for name, noise in noises.items():
        passed = np.mean([judge_limit((true_log + row).tolist(), limit_pct=limit_pct).passed for row in noise])
        print(f"{rounds} rounds, {name}: {passed:.2%} pass")
        assert passed <= 0.05 + (SLACK if len(noise) == ROWS else 4 * math.sqrt(0.05 * 0.95 / len(noise))), name


@pytest.mark.soak
@pytest.mark.parametrize("truth", [0.0, 2.0])
@pytest.mark.parametrize("allocations", [3, 5, 10])
@pytest.mark.parametrize("between", [0.0, 0.005])
def test_pooled_interval_covers_the_truth_over_allocations(truth: float, allocations: int, between: float) -> None:
    """Allocations differ by `between`, rounds by half a point; the pool must never cover less than its nominal level."""
    rng = np.random.default_rng(SEED + allocations)
    middle = math.log1p(-truth / 100)
    covered = 0
    for _ in range(ROWS):
        values = middle + rng.normal(0.0, between, (allocations, 1)) + rng.normal(0.0, 0.005, (allocations, 5))
        found = pool(values.tolist(), margin_pct=MARGIN_PCT)
        assert found is not None
        covered += found.ci95.contains(truth)
    print(f"pool of {allocations}, between {between:g}, {truth:g} %: covers {covered / ROWS:.1%}")

    assert covered / ROWS >= 0.935 - SLACK


@pytest.mark.soak
@pytest.mark.parametrize("half_width_pct", [0.25, 0.5, 1.0])
def test_extended_interval_covers_the_truth_and_is_as_narrow_as_was_asked(half_width_pct: float) -> None:
    from pytest_glasshouse.overhead.extension import rounds_needed

    rng = np.random.default_rng(SEED)
    covered = 0
    for _ in range(ROWS):
        first = rng.normal(0.0, 0.005, 5).tolist()
        decided = rounds_needed(first, half_width_pct=half_width_pct, max_rounds=10_000)
        row = [*first, *rng.normal(0.0, 0.005, decided.rounds - 5).tolist()]
        found = interval_pct(row, level=0.95, sampling=Sampling(first_rounds=5))
        assert found is not None
        assert found.half_width <= half_width_pct * 1.02
        covered += found.contains(0.0)
    print(f"extension to {half_width_pct:g}: covers {covered / ROWS:.1%}")

    assert covered / ROWS >= 0.93 - SLACK


@pytest.mark.soak
def test_rented_machine_scatters_as_the_published_rows_do() -> None:
    """What the regimes are: sequential 30-minute legs, nothing differing. Published: 44 % beyond a point, 19 % beyond five."""
    beyond = {}
    for regime in (QUIET, RENTED, HOSTILE):
        log_ratios = sequential_log_ratios(
            regime, rows=max(300, ROWS // 4), rounds=1, leg_s=1800, overhead_pct=0.0, start_spread=0.0, seed=SEED
        )
        overheads = np.abs(-np.expm1(log_ratios[:, 0]) * 100)
        beyond[regime.name] = (float(np.mean(overheads > 1)), float(np.mean(overheads > 5)))
    print(beyond)

    assert 0.40 <= beyond["rented"][0] <= 0.65
    assert 0.08 <= beyond["rented"][1] <= 0.25
    assert beyond["quiet"][1] <= 0.02
    assert beyond["hostile"][1] >= 0.40
