"""Intervals over rounds: Student's t on the rounds' log ratios, and never on anything below a round.

A process start is a random draw (autotuning, allocator layout), so a round is the unit and the degrees of freedom
are rounds - 1. scipy is imported inside the functions that need it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.rates import overhead_of_log_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

#: One value does not vary.
MIN_FOR_INTERVAL = 2


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval for the overhead, in percent."""

    low: float
    high: float

    def inside(self, margin_pct: float) -> bool:
        """Whether the whole interval lies strictly inside plus or minus the margin."""
        return -margin_pct < self.low and self.high < margin_pct

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def mean_overhead_pct(log_ratios: Sequence[float]) -> float:
    """The headline over rounds: the overhead of the mean log ratio."""
    if not log_ratios:
        raise ValueError("no round was measured")
    return overhead_of_log_ratio(math.fsum(log_ratios) / len(log_ratios))


def interval_pct(log_ratios: Sequence[float], *, level: float) -> Interval | None:
    """The two-sided t interval at `level` (0.95 or 0.90), in percent; None below two rounds."""
    if len(log_ratios) < MIN_FOR_INTERVAL:
        return None
    middle, reach = _middle_and_reach(log_ratios, tail=(1 - level) / 2)
    return Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))


def one_sided_bounds_pct(log_ratios: Sequence[float], *, level: float = 0.95) -> Interval | None:
    """The one-sided lower and upper bound, each at `level`, in percent; None below two rounds."""
    if len(log_ratios) < MIN_FOR_INTERVAL:
        return None
    middle, reach = _middle_and_reach(log_ratios, tail=1 - level)
    return Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))


def _middle_and_reach(log_ratios: Sequence[float], *, tail: float) -> tuple[float, float]:
    from scipy.stats import t

    n = len(log_ratios)
    middle = math.fsum(log_ratios) / n
    spread = math.sqrt(math.fsum((value - middle) ** 2 for value in log_ratios) / (n - 1))
    return middle, float(t.ppf(1 - tail, n - 1)) * spread / math.sqrt(n)


def proportion_lower_bound(held: int, attempted: int, *, level: float = 0.95) -> float | None:
    """The one-sided Clopper-Pearson lower bound of a proportion; None when nothing was attempted."""
    if not 0 <= held <= attempted:
        raise ValueError(f"held must lie between 0 and attempted, saw {held} of {attempted}")
    if attempted == 0:
        return None
    from scipy.stats import binomtest

    interval = binomtest(held, attempted, alternative="greater").proportion_ci(confidence_level=level, method="exact")
    return float(interval.low)
