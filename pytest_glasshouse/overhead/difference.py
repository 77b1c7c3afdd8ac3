"""The difference of two measurements of one row, in points of overhead: Welch's t on the rounds' rate ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import (
    FIXED,
    MIN_FOR_INTERVAL,
    Interval,
    Sampling,
    mean_of_rounds,
    mean_overhead_pct,
    t_quantile,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second overhead minus the first, in percentage points of the raw rate. `ci95` is None where either has one round."""

    points: float
    ci95: Interval | None


def difference(
    before: Sequence[float], after: Sequence[float], *, sampled_before: Sampling = FIXED, sampled_after: Sampling = FIXED
) -> Difference:
    """The second row's overhead minus the first's, with its two-sided 95 % interval (B. L. Welch, Biometrika 34, 1947).

    An overhead is that of a row's mean log ratio m, 100 * (1 - exp m). Its standard error is that of m times exp m (the delta
    method: the derivative), so that the interval is one of points, as the figures beside it are. `sampled_before` and
    `sampled_after` say how the rounds of either came about. A row of sequential looks is taken as if its rounds had been planned:
    where it stopped depends on its position, so the difference is approximate then.
    """
    if not before or not after:
        raise ValueError("a difference needs a round on both sides")
    points = mean_overhead_pct(after, sampled_after) - mean_overhead_pct(before, sampled_before)
    if min(len(before), len(after)) < MIN_FOR_INTERVAL:
        return Difference(points=points, ci95=None)
    (first, first_freedom), (second, second_freedom) = _of_overhead(before, sampled_before), _of_overhead(after, sampled_after)
    if first + second == 0.0:
        return Difference(points=points, ci95=Interval(low=points, high=points))
    freedom = (first + second) ** 2 / (first**2 / first_freedom + second**2 / second_freedom)
    reach = t_quantile(0.975, freedom) * math.sqrt(first + second)
    return Difference(points=points, ci95=Interval(low=points - reach, high=points + reach))


def _of_overhead(values: Sequence[float], sampling: Sampling) -> tuple[float, int]:
    """The variance of a row's overhead in square points, and its degrees of freedom."""
    found = mean_of_rounds(values, sampling)
    per_log = 100 - mean_overhead_pct(values, sampling)
    return (per_log * found.error) ** 2, found.freedom
