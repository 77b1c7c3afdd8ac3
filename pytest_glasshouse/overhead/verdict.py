"""From an interval to a word. The default is `inconclusive`, and no word here says that protection helps.

The protected leg does a superset of the raw leg's work. An interval wholly below zero is therefore noise or a broken
comparison, and its verdict says so instead of claiming a gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import Interval, interval_pct, mean_overhead_pct

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Below this many rounds an interval is shown and no verdict is drawn from it.
MIN_ROUNDS = 5


class Verdict(StrEnum):
    """What a row's figures allow to be said."""

    EXCLUDED = "excluded"
    SINGLE_SAMPLE = "single sample"
    SINGLE_ORDER = "single order"
    TOO_FEW_ROUNDS = "too few rounds"
    MEASURABLE = "measurable overhead"
    BELOW_MARGIN = "measurable overhead, below margin"
    EQUIVALENT = "equivalent within margin"
    IMPLAUSIBLE_NEGATIVE = "implausible negative"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A verdict, why, and for `inconclusive` about how many rounds more would decide it (None: more would not)."""

    verdict: Verdict
    reason: str
    more_rounds: int | None = None


def verdict(
    log_ratios: Sequence[float],
    *,
    margin_pct: float,
    fixed_order: bool = False,
    null90: Interval | None = None,
    excluded: str | None = None,
) -> Judgement:
    """Judge a row. `log_ratios` has one value per round; `null90` is the 90 % interval of raw against raw, if measured.

    The caller owes that every finding of the row was judged first: `excluded` is the reason when one did not hold.
    """
    without = _without_interval(len(log_ratios), fixed_order=fixed_order, excluded=excluded)
    if without is not None:
        return without
    if null90 is None:
        return Judgement(verdict=Verdict.INCONCLUSIVE, reason="no null was measured")
    if not null90.inside(margin_pct):
        reason = f"the null does not qualify: raw against raw is not inside +-{margin_pct:g} % at 90 %"
        return Judgement(verdict=Verdict.INCONCLUSIVE, reason=reason)
    return _by_interval(log_ratios, margin_pct)


def _without_interval(rounds: int, *, fixed_order: bool, excluded: str | None) -> Judgement | None:
    """What is decided before any figure is looked at; None where the figures decide."""
    if excluded is not None or rounds == 0:
        return Judgement(verdict=Verdict.EXCLUDED, reason=excluded or "no round was measured")
    if rounds == 1:
        return Judgement(verdict=Verdict.SINGLE_SAMPLE, reason="one round has no interval")
    if fixed_order:
        reason = "every round ran in the same order, so an order effect cannot be told from the treatment"
        return Judgement(verdict=Verdict.SINGLE_ORDER, reason=reason)
    if rounds < MIN_ROUNDS:
        return Judgement(verdict=Verdict.TOO_FEW_ROUNDS, reason=f"{rounds} rounds; a verdict needs {MIN_ROUNDS}")
    return None


def _by_interval(log_ratios: Sequence[float], margin_pct: float) -> Judgement:
    ci95, ci90 = interval_pct(log_ratios, level=0.95), interval_pct(log_ratios, level=0.90)
    if ci95 is None or ci90 is None:
        raise ValueError("a verdict by interval needs two rounds or more")
    within = ci90.inside(margin_pct)
    if ci95.low > 0 and within:
        reason = f"the 95 % interval lies above 0 and the 90 % interval inside +-{margin_pct:g} %"
        return Judgement(verdict=Verdict.BELOW_MARGIN, reason=reason)
    if ci95.low > 0:
        return Judgement(verdict=Verdict.MEASURABLE, reason="the 95 % interval lies above 0")
    if within:
        return Judgement(verdict=Verdict.EQUIVALENT, reason=f"the 90 % interval lies inside +-{margin_pct:g} %")
    if ci95.high < 0:
        reason = "the 95 % interval lies below 0 and not inside the margin: audit the comparison"
        return Judgement(verdict=Verdict.IMPLAUSIBLE_NEGATIVE, reason=reason)
    more = _more_rounds(log_ratios, ci95, margin_pct)
    reason = f"the interval neither excludes 0 nor lies inside +-{margin_pct:g} %"
    return Judgement(verdict=Verdict.INCONCLUSIVE, reason=reason, more_rounds=more)


def _more_rounds(log_ratios: Sequence[float], ci95: Interval, margin_pct: float) -> int:
    """Rounds until the half-width, falling with the root of the rounds, is short enough for the nearer of both answers."""
    middle = abs(mean_overhead_pct(log_ratios))
    wanted = max(margin_pct - middle, middle)
    needed = math.ceil(len(log_ratios) * (ci95.half_width / wanted) ** 2)
    return max(1, needed - len(log_ratios))
