"""Estimates from recorded segments: what a leg does now and then is seen, and what both do alike is not."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
from scipy.stats import binomtest, trim_mean

from pytest_glasshouse.overhead.effects import effective_sample_size, lag_one, outliers, steadiness
from pytest_glasshouse.overhead.estimate import Estimates, Figure, _agree, estimates, minimum_detectable_pct
from pytest_glasshouse.overhead.interval import Interval
from pytest_glasshouse.overhead.remarks import remarks
from pytest_glasshouse.overhead.segments import PairedLeg, RoundSegments, Segment, SegmentPair, round_segments

SEGMENT_NS = 20_000_000_000


def trace(
    *,
    rounds: int = 6,
    pairs: int = 15,
    overhead_pct: float = 0.0,
    stall_s: float = 0.0,
    every_s: float = 300.0,
    stalled: PairedLeg = "protected",
    noise: float = 0.002,
    drift: dict[PairedLeg, float] | None = None,
    common: float = 0.0,
    seed: int = 1,
    second: bool = False,
) -> list[RoundSegments]:
    """Rounds as recorded: steps of 20 ms, whole ones, 20 s a segment; one leg may stall, or drift by a share over a round."""
    draw = random.Random(seed)
    trained = {"protected": 0.0, "raw": 0.0}

    def segment(leg: PairedLeg, place: int, shared: float) -> Segment:
        step_s = 0.02 * math.exp(draw.gauss(0, noise) + shared - (drift or {}).get(leg, 0.0) * place / pairs)
        if leg == "protected":
            step_s /= 1 - overhead_pct / 100
        units, elapsed = 0, 0.0
        while elapsed < 20:
            before = trained[leg]
            trained[leg] += step_s
            elapsed += step_s
            if leg == stalled and stall_s and before // every_s != trained[leg] // every_s:
                elapsed += stall_s
            units += 1
        return Segment(units=units, elapsed_ns=round(elapsed * 1e9), cpu_ns=round(elapsed * 1e9))

    found = []
    for number in range(1, rounds + 1):
        made = []
        for place in range(1, pairs + 1):
            first: PairedLeg = draw.choice(["protected", "raw"])
            shared = draw.gauss(0, common)
            legs = {
                leg: segment(leg, place, shared)
                for leg in (("protected", "raw") if first == "protected" else ("raw", "protected"))
            }
            again = segment("raw", place, shared) if second else None
            made.append(SegmentPair(number=place, first=first, protected=legs["protected"], raw=legs["raw"], raw2=again))
        found.append(RoundSegments(round=number, pairs=tuple(made)))
    return found


def test_headline_is_the_mean_of_the_rounds_log_ratios_of_totals() -> None:
    rounds = trace(overhead_pct=1.0)

    found = estimates(rounds)

    by_round = [
        math.log(sum(p.protected.units for p in r.pairs) / sum(p.protected.elapsed_ns for p in r.pairs))
        - math.log(sum(p.raw.units for p in r.pairs) / sum(p.raw.elapsed_ns for p in r.pairs))
        for r in rounds
    ]
    assert found.log_ratios == pytest.approx(by_round)
    assert found.headline.pct == pytest.approx(-100 * math.expm1(sum(by_round) / 6))


def test_companion_is_the_mean_of_the_rounds_trimmed_means() -> None:
    rounds = trace(overhead_pct=1.0)

    pairs = [[math.log(p.protected.per_ns / p.raw.per_ns) for p in each.pairs] for each in rounds]
    expected = sum(float(trim_mean(values, 0.2)) for values in pairs) / 6

    assert estimates(rounds).trimmed.pct == pytest.approx(-100 * math.expm1(expected))


def test_stall_that_comes_only_when_protected_is_seen_and_flagged() -> None:
    """6 s in 300 are 2 %: the trimmed mean does not see them, the headline does, and they fall on one side."""
    found = estimates(trace(rounds=6, pairs=16, stall_s=6.0))

    assert 1.3 < found.headline.pct < 2.7
    assert abs(found.trimmed.pct) < 0.3
    assert found.outliers.one_sided
    assert found.outliers.protected >= 6
    assert found.outliers.raw == 0
    assert found.agree is False
    text = "; ".join(remarks(found))
    assert "the trimmed companion disagrees" in text
    assert "slow in the protected leg" in text


def test_stall_that_comes_only_when_raw_is_flagged_too() -> None:
    """Work that the protected side does in the raw leg's time looks like this."""
    found = estimates(trace(rounds=6, pairs=16, stall_s=6.0, stalled="raw"))

    assert found.outliers.one_sided
    assert any("slow in the raw leg" in each for each in remarks(found))


def test_steady_trace_has_no_remark() -> None:
    found = estimates(trace(overhead_pct=0.5))

    assert remarks(found) == ()
    assert found.agree is True
    assert found.headline.ci95 is not None
    assert found.headline.ci95.contains(0.5)
    assert [each.state for each in found.steadiness] == ["steady", "steady"]


def test_disturbance_that_both_legs_share_cancels() -> None:
    """A neighbour that takes 20 % now and again from either leg leaves the pair's ratio alone."""
    found = estimates(trace(overhead_pct=1.0, common=0.2))

    assert found.headline.ci95 is not None
    assert found.trimmed.ci95 is not None
    assert found.trimmed.ci95.contains(1.0)
    assert found.trimmed.ci95.half_width < 0.2


@pytest.mark.parametrize(("leg", "drift", "state"), [("raw", 0.2, "warming up"), ("protected", -0.2, "slowing down")])
def test_leg_that_drifts_is_named(leg: PairedLeg, drift: float, state: str) -> None:
    """A clock that throttles in one leg only is part of what is measured, and is reported."""
    found = estimates(trace(drift={leg: drift}))

    assert [each.state for each in found.steadiness if each.leg == leg] == [state]
    assert [each.state for each in found.steadiness if each.leg != leg] == ["steady"]
    assert any(f"the {leg} leg is {state}" in each for each in remarks(found))
    assert found.position is not None
    assert found.position.excludes_zero


def test_drift_of_both_legs_is_no_remark() -> None:
    """It cancels in their ratio; older reports named it all the same."""
    found = estimates(trace(drift={"raw": 0.2, "protected": 0.2}))

    assert {each.state for each in found.steadiness} == {"warming up"}
    assert remarks(found) == ()
    assert len(remarks(found, both_legs=True)) == 2


def test_leg_that_drifts_differently_in_every_round_has_no_steady_state() -> None:
    rounds = [trace(rounds=1, drift={"raw": 0.3 * sign}, seed=n)[0] for n, sign in enumerate((1, -1, 1, -1))]
    rounds = [RoundSegments(round=n, pairs=each.pairs) for n, each in enumerate(rounds, 1)]

    assert steadiness(rounds, "raw").state == "no steady state"


def test_two_pairs_are_too_few_to_judge_whether_a_leg_is_steady() -> None:
    assert steadiness(trace(pairs=2), "raw").state == "too short to say"


def test_order_effect_is_found_where_the_second_segment_is_slower() -> None:
    rounds = []
    for each in trace(rounds=6):
        pairs = [
            SegmentPair(
                number=p.number,
                first=p.first,
                protected=_slowed(p.protected, 1.0 if p.first == "protected" else 1.05),
                raw=_slowed(p.raw, 1.0 if p.first == "raw" else 1.05),
            )
            for p in each.pairs
        ]
        rounds.append(RoundSegments(round=each.round, pairs=tuple(pairs)))

    found = estimates(rounds)

    assert found.order is not None
    assert found.order.excludes_zero
    assert found.order.pct == pytest.approx(-10, abs=0.5)


def _slowed(segment: Segment, factor: float) -> Segment:
    return Segment(units=segment.units, elapsed_ns=round(segment.elapsed_ns * factor))


def test_null_of_a_quiet_trace_qualifies_and_that_of_a_wild_one_does_not() -> None:
    (quiet,) = estimates(trace()).nulls
    (wild,) = estimates(trace(noise=0.2)).nulls

    assert quiet.kind == "split halves"
    assert quiet.qualifies(1.0)
    assert not wild.qualifies(1.0)


def test_second_raw_leg_is_a_null_of_its_own() -> None:
    kinds = [null.kind for null in estimates(trace(second=True)).nulls]

    assert kinds == ["split halves", "second raw leg"]


def test_round_too_short_to_split_leaves_no_null() -> None:
    assert estimates(trace(pairs=3)).nulls == ()


def test_protected_leg_has_no_part_in_the_null() -> None:
    """A null that moved with the treatment would hide what it is there to show."""
    plain, heavy = estimates(trace()), estimates(trace(drift={"protected": -0.5}, overhead_pct=30.0))

    assert plain.nulls[0].log_ratios == heavy.nulls[0].log_ratios


def test_spread_of_process_starts_is_what_pairs_do_not_explain() -> None:
    lucky = [
        RoundSegments(
            round=each.round,
            pairs=tuple(
                SegmentPair(number=p.number, first=p.first, protected=_slowed(p.protected, 1 + luck), raw=p.raw)
                for p in each.pairs
            ),
        )
        for each, luck in zip(trace(), (0.02, -0.02, 0.01, -0.01, 0.015, -0.015), strict=True)
    ]
    alike, different = estimates(trace()), estimates(lucky)

    assert alike.start_pct is not None
    assert different.start_pct is not None
    assert alike.start_pct < 0.15
    assert 1.0 < different.start_pct < 2.5


def test_spread_that_pairs_explain_is_no_spread_of_process_starts() -> None:
    """Few noisy pairs make rounds differ; that is no evidence of processes that do."""
    starts = [estimates(trace(rounds=12, pairs=4, noise=0.3, seed=seed)) for seed in range(8)]

    ratios = [(each.start_pct or 0.0) / (each.between_pct or 1.0) for each in starts]
    assert min(ratios) == 0.0
    assert sum(ratios) / len(ratios) < 0.5


def test_outlier_begins_at_five_median_absolute_deviations() -> None:
    calm = [-1.0, 0.0, 1.0] * 7

    assert outliers([[*calm, 4.9]]).raw == 0
    assert outliers([[*calm, 5.1]]).raw == 1
    assert outliers([[*calm, -5.1]]).protected == 1


@pytest.mark.parametrize(("slow_protected", "slow_raw"), [(1, 0), (2, 2), (7, 1), (0, 9)])
def test_outliers_p_is_the_two_sided_binomial_tests(slow_protected: int, slow_raw: int) -> None:
    found = outliers([[*[-1.0, 0.0, 1.0] * 30, *[-9.0] * slow_protected, *[9.0] * slow_raw]])

    assert found.p == pytest.approx(float(binomtest(slow_protected, slow_protected + slow_raw).pvalue), rel=1e-12)


@pytest.mark.parametrize(("headline", "trimmed"), [((0.0, -1.0, 1.0), (0.5, 0.4, 0.6)), ((0.5, 0.4, 0.6), (0.0, -1.0, 1.0))])
def test_estimates_agree_only_if_each_lies_in_the_others_interval(
    headline: tuple[float, float, float], trimmed: tuple[float, float, float]
) -> None:
    one, other = (Figure(pct=pct, ci95=Interval(low=low, high=high), ci90=None) for pct, low, high in (headline, trimmed))

    assert _agree(one, other) is False
    assert _agree(one, one) is True


def test_one_round_has_figures_and_no_interval() -> None:
    found: Estimates = estimates(trace(rounds=1))

    assert (found.headline.ci95, found.trimmed.ci95, found.agree) == (None, None, None)
    assert (found.minimum_detectable_pct, found.between_pct, found.start_pct) == (None, None, None)
    assert found.within_pct is not None


def test_row_without_a_round_is_refused() -> None:
    with pytest.raises(ValueError, match="no round"):
        estimates([])


def test_minimum_detectable_effect_is_found_in_four_rows_of_five() -> None:
    """By simulation: the overhead it names is found above 0 with 80 % chance, give or take."""
    from pytest_glasshouse.overhead.interval import interval_pct

    draw, found, spread = random.Random(5), 0, 0.01
    promised = [minimum_detectable_pct([draw.gauss(0, spread) for _ in range(12)]) or 0.0 for _ in range(200)]
    size = sum(promised) / len(promised) / 100
    for _ in range(400):
        interval = interval_pct([draw.gauss(-size, spread) for _ in range(12)], level=0.95)
        found += interval is not None and interval.low > 0

    assert 0.70 < found / 400 < 0.90


def test_autocorrelated_pairs_have_a_smaller_effective_sample_size() -> None:
    walk = [[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]]
    rho = lag_one(walk)

    assert rho is not None
    assert rho > 0.5
    assert effective_sample_size(8, rho) < 8 / 3
    assert effective_sample_size(8, -0.3) == 8
    assert lag_one([[1.0, 1.0, 1.0]]) is None


def test_segments_are_read_from_an_observation() -> None:
    given: Any = {
        "number": 1,
        "first": "raw2",
        "protected": {"units": 90, "elapsed_ns": 10, "cpu_ns": 3, "position": 3},
        "raw": {"units": 100, "elapsed_ns": 10, "cpu_ns": 4, "position": 2},
        "raw2": {"units": 99, "elapsed_ns": 10, "position": 1},
    }

    (pair,) = round_segments(3, [given]).pairs

    assert pair.protected == Segment(units=90, elapsed_ns=10, cpu_ns=3)
    assert pair.raw2 == Segment(units=99, elapsed_ns=10)
    assert pair.first == "raw"


@pytest.mark.parametrize(
    "change",
    [{"first": "neither"}, {"number": 2}, {"protected": {"units": 0, "elapsed_ns": 1}}, {"raw": {"units": 1, "elapsed_ns": 0}}],
)
def test_what_cannot_be_a_pair_is_refused(change: dict[str, object]) -> None:
    leg = {"units": 1, "elapsed_ns": 1}
    given: Any = {"number": 1, "first": "raw", "protected": leg, "raw": leg, **change}

    with pytest.raises(ValueError):
        round_segments(1, [given])


def test_round_without_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="no pair"):
        round_segments(1, [])
