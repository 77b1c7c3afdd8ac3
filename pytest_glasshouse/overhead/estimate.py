"""Estimates of an interleaved row from its segments: overhead, spreads and effects, with their intervals.

The unit of every interval is the round. Pairs of one round share a process and are not independent; their number only says how
finely a round was divided. Verdicts are drawn in `overhead.verdict`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.effects import (
    Effect,
    Outliers,
    Steadiness,
    effect,
    effective_sample_size,
    lag_one,
    order_effects,
    outliers,
    position_effects,
    steadiness,
)
from pytest_glasshouse.overhead.interval import (
    FIXED,
    MIN_FOR_INTERVAL,
    Interval,
    Sampling,
    interval_pct,
    mean_of_rounds,
    mean_overhead_pct,
    t_quantile,
)
from pytest_glasshouse.overhead.null import Null, measured_nulls

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.overhead.segments import RoundSegments, SegmentPair

#: Share trimmed from each end of a round's pairs.
TRIM = 0.2
#: The chance with which `minimum_detectable_pct` is detected.
POWER = 0.80
#: Rounding tolerance, in points.
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Figure:
    """An overhead in percent with its intervals, which are None for one round."""

    pct: float
    ci95: Interval | None
    ci90: Interval | None


@dataclass(frozen=True, kw_only=True)
class Estimates:
    """All estimates of a row. Percent of throughput unless a name says otherwise.

    `agree` is whether headline and trimmed mean lie in each other's 95 % interval (None for one round). `between_pct` is
    the spread of the rounds' log ratios, `within_pct` that of the pairs inside their rounds, `start_pct` the part of the
    first that the second does not explain: the spread due to the process start. All three are standard deviations.
    """

    log_ratios: tuple[float, ...]
    headline: Figure
    trimmed: Figure
    agree: bool | None
    outliers: Outliers
    nulls: tuple[Null, ...]
    minimum_detectable_pct: float | None
    between_pct: float | None
    within_pct: float | None
    start_pct: float | None
    order: Effect | None
    position: Effect | None
    pairs: int
    autocorrelation: float | None
    common_autocorrelation: float | None
    effective_pairs: float
    steadiness: tuple[Steadiness, ...]


def estimates(rounds: Sequence[RoundSegments], *, sampling: Sampling = FIXED) -> Estimates:
    """All estimates of a row from its rounds' segments. Raises `ValueError` when there is no round."""
    if not rounds:
        raise ValueError("no round was measured")
    ratios = [totals_log_ratio(each.pairs) for each in rounds]
    pairs = [[pair_log_ratio(pair) for pair in each.pairs] for each in rounds]
    headline = _figure(ratios, sampling)
    trimmed = _figure([trimmed_mean(values) for values in pairs], sampling)
    between = mean_of_rounds(ratios, replace(sampling, first_rounds=None)).spread if len(ratios) >= MIN_FOR_INTERVAL else None
    within = _within(pairs)
    lagged = lag_one(pairs)
    total = sum(map(len, pairs))
    return Estimates(
        log_ratios=tuple(ratios),
        headline=headline,
        trimmed=trimmed,
        agree=_agree(headline, trimmed),
        outliers=outliers(pairs),
        nulls=measured_nulls(rounds, first_rounds=sampling.first_rounds),
        minimum_detectable_pct=minimum_detectable_pct(ratios, sampling),
        between_pct=None if between is None else between * 100,
        within_pct=None if within is None else within * 100,
        start_pct=_start(between, within, pairs),
        order=effect(order_effects(rounds)),
        position=effect(position_effects(pairs)),
        pairs=total,
        autocorrelation=lagged,
        common_autocorrelation=lag_one([[_common(pair) for pair in each.pairs] for each in rounds]),
        effective_pairs=effective_sample_size(total, lagged),
        steadiness=tuple(steadiness(rounds, leg) for leg in ("protected", "raw")),
    )


def totals_log_ratio(pairs: Sequence[SegmentPair]) -> float:
    """A round's headline estimate: the logarithm of protected over raw rate, each units over seconds in total."""
    protected = math.log(sum(each.protected.units for each in pairs)) - math.log(sum(each.protected.elapsed_ns for each in pairs))
    raw = math.log(sum(each.raw.units for each in pairs)) - math.log(sum(each.raw.elapsed_ns for each in pairs))
    return protected - raw


def pair_log_ratio(pair: SegmentPair) -> float:
    """The logarithm of protected over raw rate in one pair."""
    return math.log(pair.protected.per_ns) - math.log(pair.raw.per_ns)


def trimmed_mean(values: Sequence[float]) -> float:
    """A round's second estimate: the mean without the lowest and the highest fifth."""
    cut = int(TRIM * len(values))
    kept = sorted(values)[cut : len(values) - cut]
    return math.fsum(kept) / len(kept)


def minimum_detectable_pct(log_ratios: Sequence[float], sampling: Sampling = FIXED) -> float | None:
    """The smallest overhead that such a row detects with 80 % power: (t.975 + t.80) standard errors."""
    if len(log_ratios) < MIN_FOR_INTERVAL:
        return None
    found = mean_of_rounds(log_ratios, sampling)
    return (t_quantile(0.975, found.freedom) + t_quantile(POWER, found.freedom)) * found.error * 100


def _figure(log_ratios: Sequence[float], sampling: Sampling) -> Figure:
    ci95, ci90 = (interval_pct(log_ratios, level=level, sampling=sampling) for level in (0.95, 0.90))
    return Figure(pct=mean_overhead_pct(log_ratios, sampling), ci95=ci95, ci90=ci90)


def _agree(headline: Figure, trimmed: Figure) -> bool | None:
    if headline.ci95 is None or trimmed.ci95 is None:
        return None
    return headline.ci95.contains(trimmed.pct, slack_pct=_ROUNDING) and trimmed.ci95.contains(headline.pct, slack_pct=_ROUNDING)


def _within(pairs: Sequence[Sequence[float]]) -> float | None:
    """The pooled standard deviation of pairs around the mean of their round."""
    freedom = sum(len(values) - 1 for values in pairs)
    if freedom == 0:
        return None
    squares = math.fsum((value - math.fsum(values) / len(values)) ** 2 for values in pairs for value in values)
    return math.sqrt(squares / freedom)


def _start(between: float | None, within: float | None, pairs: Sequence[Sequence[float]]) -> float | None:
    """Kalibera and Jones' corrected variance components (2013): T2^2 = S2^2 - S1^2 / r1, not below 0."""
    if between is None or within is None:
        return None
    per_round = len(pairs) / math.fsum(1 / len(values) for values in pairs)
    return math.sqrt(max(0.0, between**2 - within**2 / per_round)) * 100


def _common(pair: SegmentPair) -> float:
    """The logarithm of the mean rate of a pair's legs."""
    return (math.log(pair.protected.per_ns) + math.log(pair.raw.per_ns)) / 2
