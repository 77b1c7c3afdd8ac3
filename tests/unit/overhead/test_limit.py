"""The limit a user allows: only an upper bound under it passes, only a lower bound over it fails as over."""

from __future__ import annotations

import math

import pytest

from pytest_glasshouse.overhead.limit import LimitVerdict, judge_limit

ROUNDS = [math.log1p(-value / 100) for value in (1.9, 2.1, 2.0, 1.95, 2.05)]
SPOT_ON = [math.log1p(-2.0 / 100)] * 5


@pytest.mark.parametrize(
    ("limit_pct", "expected"), [(3.0, LimitVerdict.WITHIN), (1.0, LimitVerdict.OVER), (2.0, LimitVerdict.INCONCLUSIVE)]
)
def test_limit_is_judged_by_the_one_sided_bounds(limit_pct: float, expected: LimitVerdict) -> None:
    found = judge_limit(ROUNDS, limit_pct=limit_pct)

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
    calm = [*ROUNDS, *[math.log1p(-0.02)] * 20]

    plain, extended = judge_limit(calm, limit_pct=2.02), judge_limit(calm, limit_pct=2.02, first_rounds=5)

    assert plain.upper95_pct is not None
    assert extended.upper95_pct is not None
    assert plain.upper95_pct < extended.upper95_pct


def test_rounds_in_one_order_are_inconclusive() -> None:
    assert judge_limit(ROUNDS, limit_pct=3.0, fixed_order=True).verdict is LimitVerdict.INCONCLUSIVE
