"""Whether rounds are under the overhead their user allows. Only `report.limits` calls this: who has a row asks there."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import one_sided_bounds_pct
from pytest_glasshouse.overhead.verdict import MIN_ROUNDS

if TYPE_CHECKING:
    from collections.abc import Sequence


class LimitVerdict(StrEnum):
    """Only `within` passes."""

    WITHIN = "within the limit"
    OVER = "over the limit"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class LimitJudgement:
    """The judgement with both one-sided 95 % bounds, in percent (None where one round has none)."""

    verdict: LimitVerdict
    reason: str
    limit_pct: float
    lower95_pct: float | None
    upper95_pct: float | None

    @property
    def passed(self) -> bool:
        return self.verdict is LimitVerdict.WITHIN


def judge_limit(
    log_ratios: Sequence[float],
    *,
    limit_pct: float,
    fixed_order: bool = False,
    first_rounds: int | None = None,
    implausible: bool = False,
) -> LimitJudgement:
    """Pass only if the upper bound is at most the limit; fail as `over` only if the lower bound is above it.

    Fewer rounds than a verdict needs never pass: on a machine with two speeds, two rounds agree in half of all rows however
    far off they are, and then their interval is a point. All of five agree on the wrong side in 3 % (0.5 to the fifth).
    `first_rounds` as in `overhead.interval`; `implausible` as `overhead.verdict.implausible_negative` says of these rounds.
    """
    bounds = one_sided_bounds_pct(log_ratios, first_rounds=first_rounds)
    if bounds is None:
        return _judgement(LimitVerdict.INCONCLUSIVE, "one round has no upper bound", limit_pct, None, None)
    low, high = bounds.low, bounds.high
    if implausible or fixed_order:
        reason = "implausible negative: audit the comparison" if implausible else "every round ran in the same order"
        return _judgement(LimitVerdict.INCONCLUSIVE, reason, limit_pct, low, high)
    if high <= limit_pct and len(log_ratios) < MIN_ROUNDS:
        reason = f"the upper bound is at most the limit, by {len(log_ratios)} rounds; to pass takes {MIN_ROUNDS}"
        return _judgement(LimitVerdict.INCONCLUSIVE, reason, limit_pct, low, high)
    if high <= limit_pct:
        return _judgement(LimitVerdict.WITHIN, "the one-sided 95 % upper bound is at most the limit", limit_pct, low, high)
    if low > limit_pct:
        return _judgement(LimitVerdict.OVER, "the one-sided 95 % lower bound is above the limit", limit_pct, low, high)
    return _judgement(LimitVerdict.INCONCLUSIVE, "the one-sided 95 % bounds lie on both sides of the limit", limit_pct, low, high)


def _judgement(word: LimitVerdict, reason: str, limit_pct: float, low: float | None, high: float | None) -> LimitJudgement:
    return LimitJudgement(verdict=word, reason=reason, limit_pct=limit_pct, lower95_pct=low, upper95_pct=high)
