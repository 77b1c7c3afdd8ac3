"""Every verdict is reachable, its borders are where they are documented, and none of them praises protection.

Of a limit: only an upper bound under it passes, only a lower bound over it fails as over.
"""

from __future__ import annotations

import math
from itertools import cycle, islice

import pytest

from pytest_glasshouse.overhead.interval import Interval, Sampling, interval_pct
from pytest_glasshouse.overhead.null import Null
from pytest_glasshouse.overhead.verdict import (
    LOWEST_PCT,
    MIN_ROUNDS,
    Judgement,
    LimitVerdict,
    Verdict,
    judge_limit,
    lowest_plausible_pct,
    verdict,
)


def null(low: float, high: float, *, rounds: int = 6) -> Null:
    """A null with this 90 % interval."""
    return Null(kind="split halves", log_ratios=(0.0,) * rounds, pct=(low + high) / 2, ci90=Interval(low=low, high=high))


GOOD_NULL = null(-0.2, 0.2)


def rounds(overhead_pct: float, *, spread: float = 0.05, count: int = 6) -> list[float]:
    """Log ratios whose mean is the overhead and whose spread is about `spread` points."""
    middle = math.log1p(-overhead_pct / 100)
    return [middle + step * spread / 100 for step in islice(cycle((-1, 1)), count - count % 2)] + [middle] * (count % 2)


def judged(overhead_pct: float, *, spread: float = 0.05, count: int = 6) -> Judgement:
    """A verdict with a good null and a margin of one point."""
    return verdict(rounds(overhead_pct, spread=spread, count=count), margin_pct=1.0, nulls=[GOOD_NULL])


CASES = [
    (verdict([], margin_pct=1.0), Verdict.EXCLUDED),
    (verdict(rounds(1), margin_pct=1.0, excluded="a finding did not hold"), Verdict.EXCLUDED),
    (judged(1, count=1), Verdict.SINGLE_SAMPLE),
    (verdict(rounds(1), margin_pct=1.0, fixed_order=True, nulls=[GOOD_NULL]), Verdict.SINGLE_ORDER),
    (judged(1, count=2), Verdict.TOO_FEW_ROUNDS),
    (judged(1, count=MIN_ROUNDS - 1), Verdict.TOO_FEW_ROUNDS),
    (judged(3), Verdict.MEASURABLE),
    (judged(1.0), Verdict.MEASURABLE),
    (judged(0.5), Verdict.BELOW_MARGIN),
    (judged(0.0), Verdict.EQUIVALENT),
    (judged(-0.5), Verdict.EQUIVALENT),
    (judged(-3), Verdict.IMPLAUSIBLE_NEGATIVE),
    (judged(-1.0), Verdict.IMPLAUSIBLE_NEGATIVE),
    (judged(0.5, spread=4), Verdict.INCONCLUSIVE),
    (verdict(rounds(3), margin_pct=1.0), Verdict.INCONCLUSIVE),
    (verdict(rounds(3), margin_pct=1.0, nulls=[null(-1.5, 0.1)]), Verdict.INCONCLUSIVE),
]


@pytest.mark.parametrize(("found", "expected"), CASES)
def test_verdict_is_the_one_the_figures_allow(found: Judgement, expected: Verdict) -> None:
    assert found.verdict is expected
    assert found.reason


@pytest.mark.parametrize("count", [1, 2, 6])
@pytest.mark.parametrize("fixed", [True, False])
def test_one_round_far_below_zero_is_a_broken_comparison_whatever_else_is_known(count: int, fixed: bool) -> None:
    """Before the null, the number of rounds and their order: none of them makes a leg that skips half its steps plausible."""
    found = verdict(
        [*rounds(1, count=count)][:-1] + rounds(-69, count=1), margin_pct=1.0, fixed_order=fixed, lowest_pct=LOWEST_PCT
    )
    assert found.verdict is Verdict.IMPLAUSIBLE_NEGATIVE
    assert "the comparison is at fault" in found.reason
    assert "noise" not in found.reason
    assert found.more_rounds is None


def test_a_row_whose_findings_do_not_hold_is_excluded_however_far_below_zero() -> None:
    assert verdict(rounds(-69, count=1), margin_pct=1.0, excluded="broken", lowest_pct=-50).verdict is Verdict.EXCLUDED


def test_how_far_below_zero_a_round_may_be_follows_from_raw_legs_beside_each_other() -> None:
    """Twice their half-width for a single round, their mean and the margin; never below the border where nothing is known."""
    assert lowest_plausible_pct([], margin_pct=1.0) == LOWEST_PCT
    assert lowest_plausible_pct([(0.5, 1.0, 3)], margin_pct=1.0) == pytest.approx(-(0.5 + 2 * 1.0 * 2 + 1.0))
    assert lowest_plausible_pct([(0.5, 1.0, 3), (0.0, 3.0, 3)], margin_pct=1.0) == pytest.approx(-13.0)
    assert lowest_plausible_pct([(0.5, 100.0, 3)], margin_pct=1.0) == LOWEST_PCT


def test_a_limit_is_not_met_by_an_implausible_negative_even_of_one_round() -> None:
    found = judge_limit(rounds(-69, count=1), limit_pct=3.0, implausible=True)
    assert not found.passed
    assert "at fault" in found.reason


def test_every_verdict_is_reachable() -> None:
    assert {expected for _, expected in CASES} == set(Verdict)


def test_five_rounds_are_enough_for_a_verdict() -> None:
    assert judged(3, count=MIN_ROUNDS).verdict is Verdict.MEASURABLE


def test_sequential_rounds_without_a_null_are_inconclusive_with_a_reason() -> None:
    """However many rounds: without raw against raw the allocation's own variation is unknown."""
    found = verdict(rounds(3, count=40), margin_pct=1.0)

    assert (found.verdict, found.reason, found.more_rounds) == (Verdict.INCONCLUSIVE, "no null was measured", None)


def test_one_round_in_fixed_order_is_a_single_sample() -> None:
    assert verdict(rounds(1, count=1), margin_pct=1.0, fixed_order=True).verdict is Verdict.SINGLE_SAMPLE


def test_more_rounds_are_named_only_where_rounds_would_decide() -> None:
    for found, _ in CASES:
        open_still = found.verdict in {Verdict.INCONCLUSIVE, Verdict.TOO_FEW_ROUNDS}
        assert (found.more_rounds is not None) is (open_still and "no null" not in found.reason)


def test_too_few_rounds_name_how_many_more_a_verdict_needs() -> None:
    assert judged(1, count=2).more_rounds == MIN_ROUNDS - 2


def test_one_null_that_does_not_qualify_makes_the_verdict_inconclusive() -> None:
    found = verdict(rounds(3), margin_pct=1.0, nulls=[GOOD_NULL, null(-0.2, 1.0)])

    assert found.verdict is Verdict.INCONCLUSIVE
    assert "-0.20 to +1.00" in found.reason


def test_null_outside_the_margin_asks_for_no_more_rounds() -> None:
    assert verdict(rounds(3), margin_pct=1.0, nulls=[null(1.1, 1.5)]).more_rounds is None
    assert verdict(rounds(3), margin_pct=1.0, nulls=[null(-1.5, 1.5)]).more_rounds == 8


def test_null_of_one_round_qualifies_for_nothing() -> None:
    """Half-width None is not half-width 0."""
    lonely = Null(kind="split halves", log_ratios=(0.0,), pct=0.0, ci90=None)

    assert not lonely.qualifies(100.0)


def _spread_for(overhead_pct: float, edge: str, at_pct: float) -> float:
    """The spread in points at which one end of six rounds' interval lies at `at_pct`, by bisection."""
    level = 0.90 if edge.endswith("90") else 0.95
    low, high = 1e-6, 50.0
    for _ in range(200):
        middle = (low + high) / 2
        found = interval_pct(rounds(overhead_pct, spread=middle), level=level)
        assert found is not None
        reached = found.high >= at_pct if edge.startswith("high") else found.low <= at_pct
        low, high = (low, middle) if reached else (middle, high)
    return (low + high) / 2


@pytest.mark.parametrize(
    ("overhead", "edge", "at", "inner", "outer"),
    [
        (0.2, "high90", 1.0, Verdict.EQUIVALENT, Verdict.INCONCLUSIVE),
        (-0.2, "low90", -1.0, Verdict.EQUIVALENT, Verdict.INCONCLUSIVE),
        (0.7, "high90", 1.0, Verdict.BELOW_MARGIN, Verdict.MEASURABLE),
        (0.4, "low95", 0.0, Verdict.BELOW_MARGIN, Verdict.EQUIVALENT),
        (3.0, "low95", 0.0, Verdict.MEASURABLE, Verdict.INCONCLUSIVE),
        (-3.0, "high95", 0.0, Verdict.IMPLAUSIBLE_NEGATIVE, Verdict.INCONCLUSIVE),
    ],
)
def test_verdict_turns_where_an_end_of_the_interval_crosses_its_border(
    overhead: float, edge: str, at: float, inner: Verdict, outer: Verdict
) -> None:
    """A millionth of the spread on either side of the border is another verdict: it lies where it is documented."""
    border = _spread_for(overhead, edge, at)

    assert judged(overhead, spread=border * (1 - 1e-6)).verdict is inner
    assert judged(overhead, spread=border * (1 + 1e-6)).verdict is outer


def test_overhead_is_beyond_the_margin_only_when_its_whole_interval_is() -> None:
    assert "beyond the margin" in judged(3).reason
    assert "beyond the margin" not in judged(1.0).reason


def test_remarks_reach_the_reason_and_change_no_verdict() -> None:
    for remarks in ((), ("the trimmed companion disagrees", "an outlier")):
        found = verdict(rounds(3), margin_pct=1.0, nulls=[GOOD_NULL], remarks=remarks)
        assert found.verdict is Verdict.MEASURABLE
        assert all(each in found.reason for each in remarks)


def test_margin_is_the_rows_own() -> None:
    """The same figures are equivalent within two points and measurable against half a one."""
    wide = verdict(rounds(0.0, spread=0.9), margin_pct=2.0, nulls=[GOOD_NULL])
    narrow = verdict(rounds(0.0, spread=0.9), margin_pct=0.5, nulls=[GOOD_NULL])

    assert (wide.verdict, narrow.verdict) == (Verdict.EQUIVALENT, Verdict.INCONCLUSIVE)


def test_extended_row_is_judged_by_the_spread_of_its_first_rounds() -> None:
    """Later rounds that happen to agree must not make the interval of an extended row narrower than Stein's."""
    calm = [*rounds(0.5, spread=1.1), *rounds(0.5, spread=0.001, count=12)]

    assert (
        verdict(calm, margin_pct=1.0, nulls=[GOOD_NULL]).verdict
        is not verdict(calm, margin_pct=1.0, nulls=[GOOD_NULL], sampling=Sampling(first_rounds=6)).verdict
    )


def test_more_rounds_grow_with_the_spread() -> None:
    few, many = judged(0.5, spread=2).more_rounds, judged(0.5, spread=8).more_rounds

    assert few is not None
    assert many is not None
    assert 1 <= few < many


def test_no_verdict_praises_protection() -> None:
    for each in Verdict:
        assert not {"faster", "speed", "gain", "improve"} & set(each.value.replace("-", " ").split())


LIMIT_ROUNDS = [math.log1p(-value / 100) for value in (1.9, 2.1, 2.0, 1.95, 2.05)]
SPOT_ON = [math.log1p(-2.0 / 100)] * 5


@pytest.mark.parametrize(
    ("limit_pct", "expected"), [(3.0, LimitVerdict.WITHIN), (1.0, LimitVerdict.OVER), (2.0, LimitVerdict.INCONCLUSIVE)]
)
def test_limit_is_judged_by_the_one_sided_bounds(limit_pct: float, expected: LimitVerdict) -> None:
    found = judge_limit(LIMIT_ROUNDS, limit_pct=limit_pct)

    assert found.verdict is expected
    assert found.passed is (expected is LimitVerdict.WITHIN)


def test_upper_bound_at_the_limit_passes() -> None:
    at = judge_limit(SPOT_ON, limit_pct=2.0).upper95_pct

    assert at is not None
    assert judge_limit(SPOT_ON, limit_pct=at).passed
    assert judge_limit(SPOT_ON, limit_pct=math.nextafter(at, 0)).verdict is LimitVerdict.OVER


def test_one_round_is_inconclusive_however_low() -> None:
    found = judge_limit([math.log1p(0.5)], limit_pct=99.0)

    assert found.verdict is LimitVerdict.INCONCLUSIVE
    assert found.upper95_pct is None


def test_rounds_that_agree_by_chance_do_not_pass() -> None:
    """A machine with two speeds gives equal rounds, and an interval that is a point, in half of all pairs of rounds."""
    four = judge_limit(SPOT_ON[:4], limit_pct=3.0)

    assert four.verdict is LimitVerdict.INCONCLUSIVE
    assert "to pass takes 5" in four.reason
    assert judge_limit(SPOT_ON, limit_pct=3.0).passed


def test_few_rounds_may_still_be_over() -> None:
    assert judge_limit(SPOT_ON[:2], limit_pct=1.0).verdict is LimitVerdict.OVER


def test_extended_rounds_are_bounded_by_the_spread_of_the_first() -> None:
    calm = [*LIMIT_ROUNDS, *[math.log1p(-0.02)] * 20]

    plain, extended = judge_limit(calm, limit_pct=2.02), judge_limit(calm, limit_pct=2.02, sampling=Sampling(first_rounds=5))

    assert plain.upper95_pct is not None
    assert extended.upper95_pct is not None
    assert plain.upper95_pct < extended.upper95_pct


def test_rounds_in_one_order_are_inconclusive() -> None:
    assert judge_limit(LIMIT_ROUNDS, limit_pct=3.0, fixed_order=True).verdict is LimitVerdict.INCONCLUSIVE
