"""Verdicts on intervals, and on the limit that a user allows. The default is `inconclusive`.

The protected leg does a superset of the raw leg's work. An interval below zero by more than the margin, or a single round below
what raw legs show against each other, is therefore a broken comparison, and its verdict says so before anything else is asked;
there is no verdict for a gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import (
    FIXED,
    Interval,
    Sampling,
    interval_pct,
    mean_overhead_pct,
    one_sided_bounds_pct,
    overhead_of_log_ratio,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.overhead.null import Null

#: With fewer rounds the interval is shown and no verdict is drawn from it.
MIN_ROUNDS = 5


#: A single round this far below zero is implausible, whatever is known of the machine; more often it is known better.
LOWEST_PCT = -50.0
#: Of a null's 95 % half-width for one round, how many a single round may be below zero.
_HALF_WIDTHS = 2.0
AT_FAULT = "the comparison is at fault: find out what the legs did differently"


class Verdict(StrEnum):
    """The verdict on a row."""

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
    """A verdict, its reason, and about how many more rounds would decide it (None: it is decided, or rounds would not help)."""

    verdict: Verdict
    reason: str
    more_rounds: int | None = None


class LimitVerdict(StrEnum):
    """The verdict on a limit; only `within` passes."""

    WITHIN = "within the limit"
    OVER = "over the limit"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, kw_only=True)
class LimitJudgement:
    """The verdict on a limit, with both one-sided 95 % bounds in percent (None for one round)."""

    verdict: LimitVerdict
    reason: str
    limit_pct: float
    lower95_pct: float | None
    upper95_pct: float | None

    @property
    def passed(self) -> bool:
        return self.verdict is LimitVerdict.WITHIN


def verdict(
    log_ratios: Sequence[float],
    *,
    margin_pct: float,
    fixed_order: bool = False,
    nulls: Sequence[Null] = (),
    excluded: str | None = None,
    remarks: Sequence[str] = (),
    sampling: Sampling = FIXED,
    null_first: bool = False,
    needs_null: bool = True,
    lowest_pct: float | None = None,
) -> Judgement:
    """Judge a row. `log_ratios` has one value per round; `nulls` are raw against raw, and all must qualify.

    A row that `needs_null` concludes nothing without one; the interval of another already has the spread of process starts in it.

    `remarks` (`overhead.remarks`) are appended to the reason and decide nothing. The caller must have judged every finding of
    the row: `excluded` is the reason when one did not hold. `null_first` is the older rule, by which a null that does not
    qualify hides an implausible negative. No round may be below `lowest_pct` (of `lowest_plausible_pct`); None: the older rule.
    """
    found = None if excluded is not None else implausible_negative(log_ratios, margin_pct=margin_pct, lowest_pct=lowest_pct)
    judged = _without_interval(len(log_ratios), fixed_order=fixed_order, excluded=excluded) if found is None else found
    judged = judged or _by_figures(
        log_ratios, margin_pct, nulls=nulls, sampling=sampling, null_first=null_first, needs_null=needs_null
    )
    return replace(judged, reason="; ".join((judged.reason, *remarks)))


def implausible_negative(
    log_ratios: Sequence[float],
    *,
    margin_pct: float,
    fixed_order: bool = True,
    sampling: Sampling = FIXED,
    lowest_pct: float | None = None,
) -> Judgement | None:
    """The verdict where a row lies implausibly below zero, whatever the nulls are; None where it does not.

    A single round that is below `lowest_pct`, in whatever order; or, where the orders varied (not `fixed_order`), the interval of
    enough rounds for a verdict.
    """
    lowest = min(map(overhead_of_log_ratio, log_ratios), default=0.0)
    if lowest_pct is not None and lowest < lowest_pct:
        reason = f"a round lies at {lowest:+.2f} %, below {lowest_pct:+.2f} %, which no raw leg shows beside another: {AT_FAULT}"
        return Judgement(verdict=Verdict.IMPLAUSIBLE_NEGATIVE, reason=reason)
    if len(log_ratios) < MIN_ROUNDS or fixed_order:
        return None
    judged = _by_intervals(log_ratios, margin_pct, sampling)
    return judged if judged.verdict is Verdict.IMPLAUSIBLE_NEGATIVE else None


def lowest_plausible_pct(nulls: Sequence[tuple[float, float, int]], *, margin_pct: float) -> float:
    """How far below zero a single round may be.

    `nulls` compare raw legs with each other: each is a mean in percent, the half-width of its 95 % interval, and over how many
    rounds. Without any the border is `LOWEST_PCT`, and never lower.
    """
    shown = [abs(pct) + _HALF_WIDTHS * half_width * math.sqrt(rounds + 1) for pct, half_width, rounds in nulls]
    return max(LOWEST_PCT, -(max(shown) + margin_pct)) if shown else LOWEST_PCT


def judge_limit(
    log_ratios: Sequence[float],
    *,
    limit_pct: float,
    fixed_order: bool = False,
    sampling: Sampling = FIXED,
    implausible: bool = False,
) -> LimitJudgement:
    """Pass only if the upper bound is at most the limit; fail as `over` only if the lower bound is above it.

    Fewer rounds than a verdict needs never pass: on a machine with two speeds, two rounds agree in half of all rows however
    far off they are, and then their interval is a point. All of five agree on the wrong side in 3 % (0.5 to the fifth).
    `sampling` as in `overhead.interval`; `implausible` is what `implausible_negative` returns for these rounds. Callers that
    have a row use `analysis.row_limits`, which passes all of these.
    """
    bounds = one_sided_bounds_pct(log_ratios, sampling=sampling)
    if bounds is None and not implausible:
        return _limit_judgement(LimitVerdict.INCONCLUSIVE, "one round has no upper bound", limit_pct, None)
    if bounds is None or implausible or fixed_order:
        reason = f"{Verdict.IMPLAUSIBLE_NEGATIVE.value}: {AT_FAULT}" if implausible else "every round ran in the same order"
        return _limit_judgement(LimitVerdict.INCONCLUSIVE, reason, limit_pct, bounds)
    low, high = bounds.low, bounds.high
    if high <= limit_pct and len(log_ratios) < MIN_ROUNDS:
        reason = f"the upper bound is at most the limit, by {len(log_ratios)} rounds; to pass takes {MIN_ROUNDS}"
        return _limit_judgement(LimitVerdict.INCONCLUSIVE, reason, limit_pct, bounds)
    if high <= limit_pct:
        return _limit_judgement(LimitVerdict.WITHIN, "the one-sided 95 % upper bound is at most the limit", limit_pct, bounds)
    if low > limit_pct:
        return _limit_judgement(LimitVerdict.OVER, "the one-sided 95 % lower bound is above the limit", limit_pct, bounds)
    return _limit_judgement(
        LimitVerdict.INCONCLUSIVE, "the one-sided 95 % bounds lie on both sides of the limit", limit_pct, bounds
    )


def _by_figures(
    log_ratios: Sequence[float],
    margin_pct: float,
    *,
    nulls: Sequence[Null],
    sampling: Sampling,
    null_first: bool,
    needs_null: bool,
) -> Judgement:
    judged = _by_intervals(log_ratios, margin_pct, sampling)
    # Before the nulls: a null that does not qualify must not hide a broken comparison.
    if judged.verdict is Verdict.IMPLAUSIBLE_NEGATIVE and not null_first:
        return judged
    if not nulls and needs_null:
        return Judgement(verdict=Verdict.INCONCLUSIVE, reason="no null was measured")
    for null in nulls:
        if not null.qualifies(margin_pct):
            return _unqualified(null, margin_pct)
    return judged


def _by_intervals(log_ratios: Sequence[float], margin_pct: float, sampling: Sampling) -> Judgement:
    ci95, ci90 = (interval_pct(log_ratios, level=level, sampling=sampling) for level in (0.95, 0.90))
    if ci95 is None or ci90 is None:
        raise ValueError("a verdict by interval needs two rounds or more")
    more = _more_rounds(
        len(log_ratios), ci95.half_width, _deciding_half_width(mean_overhead_pct(log_ratios, sampling), margin_pct)
    )
    return by_interval(ci95, ci90, margin_pct=margin_pct, more_rounds=more)


def by_interval(ci95: Interval, ci90: Interval, *, margin_pct: float, more_rounds: int | None = None) -> Judgement:
    """The verdict that two intervals of one figure allow; `more_rounds` is passed on where it is inconclusive."""
    within = ci90.inside(margin_pct)
    if ci95.low > 0 and within:
        reason = f"the 95 % interval lies above 0 and the 90 % interval inside +-{margin_pct:g} %"
        return Judgement(verdict=Verdict.BELOW_MARGIN, reason=reason)
    if ci95.low > 0:
        beyond = f", beyond the margin of {margin_pct:g} %" if ci95.low > margin_pct else ""
        return Judgement(verdict=Verdict.MEASURABLE, reason=f"the 95 % interval lies above 0{beyond}")
    if within:
        return Judgement(verdict=Verdict.EQUIVALENT, reason=f"the 90 % interval lies inside +-{margin_pct:g} %")
    if ci95.high < 0:
        reason = f"the 95 % interval lies below 0 and not inside the margin: {AT_FAULT}"
        return Judgement(verdict=Verdict.IMPLAUSIBLE_NEGATIVE, reason=reason)
    reason = f"the interval neither excludes 0 nor lies inside +-{margin_pct:g} %"
    return Judgement(verdict=Verdict.INCONCLUSIVE, reason=reason, more_rounds=more_rounds)


def _without_interval(rounds: int, *, fixed_order: bool, excluded: str | None) -> Judgement | None:
    """The verdict where it does not depend on the figures, else None."""
    if excluded is not None or rounds == 0:
        return Judgement(verdict=Verdict.EXCLUDED, reason=excluded or "no round was measured")
    if rounds == 1:
        return Judgement(verdict=Verdict.SINGLE_SAMPLE, reason="one round has no interval")
    if fixed_order:
        reason = "every round ran in the same order, so an order effect cannot be told from the treatment"
        return Judgement(verdict=Verdict.SINGLE_ORDER, reason=reason)
    if rounds < MIN_ROUNDS:
        reason = f"{rounds} rounds; a verdict needs {MIN_ROUNDS}"
        return Judgement(verdict=Verdict.TOO_FEW_ROUNDS, reason=reason, more_rounds=MIN_ROUNDS - rounds)
    return None


def _unqualified(null: Null, margin_pct: float) -> Judgement:
    """More rounds may narrow a null that is too wide; they do not move one whose estimate is outside the margin."""
    shown = "one round" if null.ci90 is None else f"{null.ci90.low:+.2f} to {null.ci90.high:+.2f} % at 90 %"
    how = null.kind if null.kind == "between processes" else f"by {null.kind}"
    reason = f"the null does not qualify: raw against raw {how} reads {shown}, not inside +-{margin_pct:g} %"
    more = None
    if null.ci90 is not None:
        room = margin_pct if null.ci90.contains(0.0) else margin_pct - abs(null.pct)
        more = _more_rounds(len(null.log_ratios), null.ci90.half_width, room) if room > 0 else None
    return Judgement(verdict=Verdict.INCONCLUSIVE, reason=reason, more_rounds=more)


def _deciding_half_width(pct: float, margin_pct: float) -> float:
    """The half-width that would decide: inside the margin or excluding 0, whichever needs fewer rounds."""
    return max(margin_pct - abs(pct), abs(pct))


def _more_rounds(rounds: int, half_width: float, wanted: float) -> int:
    """Rounds until the half-width, which falls with the root of their number, is as small as wanted."""
    return max(1, math.ceil(rounds * (half_width / wanted) ** 2) - rounds)


def _limit_judgement(verdict: LimitVerdict, reason: str, limit_pct: float, bounds: Interval | None) -> LimitJudgement:
    low, high = (None, None) if bounds is None else (bounds.low, bounds.high)
    return LimitJudgement(verdict=verdict, reason=reason, limit_pct=limit_pct, lower95_pct=low, upper95_pct=high)
