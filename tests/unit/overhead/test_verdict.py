"""Every verdict is reachable, its borders are where they are said to be, and none of them praises protection."""

from __future__ import annotations

import math
from itertools import cycle, islice

import pytest

from pytest_glasshouse.overhead.interval import Interval
from pytest_glasshouse.overhead.verdict import MIN_ROUNDS, Judgement, Verdict, verdict

GOOD_NULL = Interval(low=-0.2, high=0.2)


def rounds(overhead_pct: float, *, spread: float = 0.05, count: int = 6) -> list[float]:
    """Log ratios whose mean is the overhead and whose spread is about `spread` points."""
    middle = math.log1p(-overhead_pct / 100)
    return [middle + step * spread / 100 for step in islice(cycle((-1, 1)), count - count % 2)] + [middle] * (count % 2)


def judged(overhead_pct: float, *, spread: float = 0.05, count: int = 6) -> Judgement:
    """A verdict with a good null and a margin of one point."""
    return verdict(rounds(overhead_pct, spread=spread, count=count), margin_pct=1.0, null90=GOOD_NULL)


CASES = [
    (verdict([], margin_pct=1.0), Verdict.EXCLUDED),
    (verdict(rounds(1), margin_pct=1.0, excluded="a finding did not hold"), Verdict.EXCLUDED),
    (judged(1, count=1), Verdict.SINGLE_SAMPLE),
    (verdict(rounds(1), margin_pct=1.0, fixed_order=True, null90=GOOD_NULL), Verdict.SINGLE_ORDER),
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
    (verdict(rounds(3), margin_pct=1.0, null90=Interval(low=-1.5, high=0.1)), Verdict.INCONCLUSIVE),
]


@pytest.mark.parametrize(("found", "expected"), CASES)
def test_verdict_is_the_one_the_figures_allow(found: Judgement, expected: Verdict) -> None:
    assert found.verdict is expected
    assert found.reason


def test_every_verdict_is_reachable() -> None:
    assert {expected for _, expected in CASES} == set(Verdict)


def test_five_rounds_are_enough_for_a_verdict() -> None:
    assert judged(3, count=MIN_ROUNDS).verdict is Verdict.MEASURABLE


def test_sequential_rounds_without_a_null_stay_inconclusive_and_say_why() -> None:
    """However many rounds: without raw against raw nobody knows what the allocation does by itself."""
    found = verdict(rounds(3, count=40), margin_pct=1.0)

    assert (found.verdict, found.reason, found.more_rounds) == (Verdict.INCONCLUSIVE, "no null was measured", None)


def test_one_round_in_fixed_order_is_a_single_sample() -> None:
    assert verdict(rounds(1, count=1), margin_pct=1.0, fixed_order=True).verdict is Verdict.SINGLE_SAMPLE


def test_more_rounds_are_named_only_where_rounds_would_decide() -> None:
    for found, _ in CASES:
        by_rounds = found.verdict is Verdict.INCONCLUSIVE and "null" not in found.reason
        assert (found.more_rounds is not None) is by_rounds


def test_more_rounds_grow_with_the_spread() -> None:
    few, many = judged(0.5, spread=2).more_rounds, judged(0.5, spread=8).more_rounds

    assert few is not None
    assert many is not None
    assert 1 <= few < many


def test_no_verdict_praises_protection() -> None:
    for word in Verdict:
        assert not {"faster", "speed", "gain", "improve"} & set(word.value.replace("-", " ").split())
