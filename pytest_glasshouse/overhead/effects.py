"""Disturbances of a comparison of segments: order, position, outliers by leg, autocorrelation, drift.

None of these decides a verdict; they appear in its reason. Values are log ratios or log rates, one list per round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.overhead.interval import MIN_FOR_INTERVAL, Interval, middle_and_reach

if TYPE_CHECKING:
    from pytest_glasshouse.overhead.segments import PairedLeg, RoundSegments

Values = Sequence[Sequence[float]]

#: A pair is an outlier beyond this many median absolute deviations from its round's median.
OUTLIER_MADS = 5.0
#: Outliers are one-sided when a split this uneven is less likely than this.
SIGNIFICANT = 0.05
#: A leg whose rate moves by less than this from the first to the second half of its rounds is steady, in percent.
STEADY_PCT = 1.0
#: Log ratios that differ by less are the same.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Effect:
    """A difference in points with its 95 % interval over rounds."""

    pct: float
    ci95: Interval | None

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and 0 is outside it."""
        return self.ci95 is not None and not self.ci95.contains(0.0)


@dataclass(frozen=True, kw_only=True)
class Outliers:
    """Pairs far from their round's median, counted by the leg that was slow, and how likely a split this uneven is.

    `p` is that of a two-sided binomial test; None where no pair is an outlier.
    """

    protected: int
    raw: int
    p: float | None

    @property
    def one_sided(self) -> bool:
        """Whether they are unevenly split between the legs."""
        return self.p is not None and self.p < SIGNIFICANT


@dataclass(frozen=True, kw_only=True)
class Steadiness:
    """Whether a leg's rate was constant within its rounds. `drift_pct`: second half against first, mean over rounds."""

    leg: PairedLeg
    state: Literal["steady", "warming up", "slowing down", "no steady state", "too short to say"]
    drift_pct: float | None


def order_effects(rounds: Sequence[RoundSegments]) -> list[float]:
    """By round: mean log ratio of pairs that began protected minus that of pairs that began raw; rounds with both only."""
    found = []
    for each in rounds:
        by_first: dict[str, list[float]] = {"protected": [], "raw": []}
        for pair in each.pairs:
            by_first[pair.first].append(math.log(pair.protected.per_ns) - math.log(pair.raw.per_ns))
        if by_first["protected"] and by_first["raw"]:
            found.append(_mean(by_first["protected"]) - _mean(by_first["raw"]))
    return found


def position_effects(pairs: Values) -> list[float]:
    """By round: mean log ratio of its later half of pairs minus that of its earlier half."""
    return [_mean(values[-(len(values) // 2) :]) - _mean(values[: len(values) // 2]) for values in pairs if len(values) > 1]


def effect(by_round: Sequence[float]) -> Effect | None:
    """The mean over rounds of a difference of log ratios, in points of overhead; None for no rounds."""
    if not by_round:
        return None
    if len(by_round) < MIN_FOR_INTERVAL:
        return Effect(pct=-100 * by_round[0], ci95=None)
    middle, reach = middle_and_reach(by_round, tail=0.025)
    return Effect(pct=-100 * middle, ci95=Interval(low=-100 * (middle + reach), high=-100 * (middle - reach)))


def outliers(pairs: Values) -> Outliers:
    """Count, by the slow leg, the pairs beyond five median absolute deviations (of the whole row) from their round's median."""
    from scipy.special import bdtr

    away = [value - median(values) for values in pairs for value in values]
    limit = max(OUTLIER_MADS * median(abs(value) for value in away), _ROUNDING)
    protected, raw = sum(value < -limit for value in away), sum(value > limit for value in away)
    # Two-sided binomial test of one half: symmetric, so both tails are alike.
    p = min(1.0, 2 * float(bdtr(min(protected, raw), protected + raw, 0.5))) if protected + raw else None
    return Outliers(protected=protected, raw=raw, p=p)


def lag_one(rounds: Values) -> float | None:
    """Lag-1 autocorrelation within rounds, around each round's mean; None where nothing varies."""
    centred = [[value - _mean(values) for value in values] for values in rounds]
    squares = math.fsum(value * value for values in centred for value in values)
    if squares == 0 or all(len(values) < MIN_FOR_INTERVAL for values in centred):
        return None
    products = math.fsum(a * b for values in centred for a, b in pairwise(values))
    return products / squares


def effective_sample_size(count: int, autocorrelation: float | None) -> float:
    """How many independent values `count` values with this lag-1 autocorrelation are worth; never more than `count`."""
    if autocorrelation is None or autocorrelation <= 0:
        return float(count)
    return count * (1 - autocorrelation) / (1 + autocorrelation)


def steadiness(rounds: Sequence[RoundSegments], leg: PairedLeg) -> Steadiness:
    """Compare the halves of every round: the same direction in all rounds is a drift, mixed directions are no steady state."""
    drifts = []
    for each in rounds:
        rates = [math.log(getattr(pair, leg).per_ns) for pair in each.pairs]
        if len(rates) > 3:  # noqa: PLR2004  (two in each half)
            drifts.append(median(rates[-(len(rates) // 2) :]) - median(rates[: len(rates) // 2]))
    if not drifts:
        return Steadiness(leg=leg, state="too short to say", drift_pct=None)
    drift_pct = math.expm1(_mean(drifts)) * 100
    tolerance = math.log1p(STEADY_PCT / 100)
    if _mean([abs(value) for value in drifts]) <= tolerance:
        return Steadiness(leg=leg, state="steady", drift_pct=drift_pct)
    if all(value > 0 for value in drifts):
        return Steadiness(leg=leg, state="warming up", drift_pct=drift_pct)
    if all(value < 0 for value in drifts):
        return Steadiness(leg=leg, state="slowing down", drift_pct=drift_pct)
    return Steadiness(leg=leg, state="no steady state", drift_pct=drift_pct)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
