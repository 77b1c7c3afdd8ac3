"""The difference of two measurements of one row: Welch's t on the rounds' log ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import (
    FIXED,
    MIN_FOR_INTERVAL,
    Interval,
    Sampling,
    mean_of,
    mean_of_rounds,
    overhead_of_log_ratio,
    t_quantile,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The second overhead minus the first, in percent of the first's protected rate. `ci95` is None where either has one round.

    For small overheads this is the difference in percentage points.
    """

    points: float
    ci95: Interval | None


def difference(
    before: Sequence[float], after: Sequence[float], *, sampled_before: Sampling = FIXED, sampled_after: Sampling = FIXED
) -> Difference:
    """The difference of two rows' mean log ratios with its two-sided 95 % interval (B. L. Welch, Biometrika 34, 1947).

    `sampled_before` and `sampled_after` say how the rounds of either came about. A row of sequential looks is taken as if its
    rounds had been planned: where it stopped depends on its position, so the difference is approximate then.
    """
    if not before or not after:
        raise ValueError("a difference needs a round on both sides")
    middle = mean_of(after, sampled_after) - mean_of(before, sampled_before)
    if min(len(before), len(after)) < MIN_FOR_INTERVAL:
        return Difference(points=overhead_of_log_ratio(middle), ci95=None)
    (first, first_freedom), (second, second_freedom) = _of_mean(before, sampled_before), _of_mean(after, sampled_after)
    if first + second == 0.0:
        exact = overhead_of_log_ratio(middle)
        return Difference(points=exact, ci95=Interval(low=exact, high=exact))
    freedom = (first + second) ** 2 / (first**2 / first_freedom + second**2 / second_freedom)
    reach = t_quantile(0.975, freedom) * math.sqrt(first + second)
    interval = Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))
    return Difference(points=overhead_of_log_ratio(middle), ci95=interval)


def _of_mean(values: Sequence[float], sampling: Sampling) -> tuple[float, int]:
    """The variance of the mean, and its degrees of freedom."""
    found = mean_of_rounds(values, sampling)
    return found.error**2, found.freedom
