"""Rates and overheads of rounds, and their intervals: Student's t on the rounds' log ratios.

A process start is a random draw (autotuning, allocator layout), so the round is the unit, never a step or a pair, and the
degrees of freedom are rounds - 1. Where a row was extended once after its first rounds (`overhead.extension`), `first_rounds` is
their number: spread and degrees of freedom are then those of the first rounds alone, which keeps the interval exact although
their spread decided how many more there are (C. Stein, Ann. Math. Statist. 16, 1945).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: One round has no spread.
MIN_FOR_INTERVAL = 2
#: Larger exponents are cut to this one, near which a double overflows; a figure of 10^306 % is as clearly nonsense.
_MAX_EXPONENT = 700.0


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A two-sided interval for the overhead, in percent."""

    low: float
    high: float

    def inside(self, margin_pct: float) -> bool:
        """Whether the whole interval lies strictly inside plus or minus the margin."""
        return -margin_pct < self.low and self.high < margin_pct

    def contains(self, value_pct: float, *, slack_pct: float = 0.0) -> bool:
        """Whether the value lies in the interval, its ends (and `slack_pct` beyond them) included."""
        return self.low - slack_pct <= value_pct <= self.high + slack_pct

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / 2


def rate(units: float, seconds: float) -> float:
    """Units per second. Raises `ValueError` unless both are finite and above 0: a measured leg did some work in some time."""
    for name, value in (("units", units), ("seconds", seconds)):
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} must be finite and above 0, saw {value!r}")
    return units / seconds


def overhead_pct(protected_rate: float, raw_rate: float) -> float:
    """The published formula: `(1 - protected / raw) * 100`. Positive where protection cost throughput."""
    for name, value in (("protected rate", protected_rate), ("raw rate", raw_rate)):
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{name} must be finite and above 0, saw {value!r}")
    return (1 - protected_rate / raw_rate) * 100


def log_ratio(protected_rate: float, raw_rate: float) -> float:
    """The logarithm of protected over raw. Rounds are averaged on this scale, because ratios multiply."""
    return math.log(protected_rate) - math.log(raw_rate)


def overhead_of_log_ratio(value: float) -> float:
    """Percent overhead of a log ratio. It falls as the log ratio rises, so lower and upper bounds swap."""
    return -math.expm1(min(value, _MAX_EXPONENT)) * 100


def mean_overhead_pct(log_ratios: Sequence[float]) -> float:
    """The headline over rounds: the overhead of the mean log ratio."""
    if not log_ratios:
        raise ValueError("no round was measured")
    return overhead_of_log_ratio(math.fsum(log_ratios) / len(log_ratios))


def interval_pct(log_ratios: Sequence[float], *, level: float, first_rounds: int | None = None) -> Interval | None:
    """The two-sided t interval at `level` (0.95 or 0.90), in percent; None below two rounds."""
    if len(log_ratios) < MIN_FOR_INTERVAL:
        return None
    middle, reach = middle_and_reach(log_ratios, tail=(1 - level) / 2, first_rounds=first_rounds)
    return Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))


def one_sided_bounds_pct(log_ratios: Sequence[float], *, level: float = 0.95, first_rounds: int | None = None) -> Interval | None:
    """The one-sided lower and upper bound, each at `level`, in percent; None below two rounds."""
    if len(log_ratios) < MIN_FOR_INTERVAL:
        return None
    middle, reach = middle_and_reach(log_ratios, tail=1 - level, first_rounds=first_rounds)
    return Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))


def middle_and_reach(values: Sequence[float], *, tail: float, first_rounds: int | None = None) -> tuple[float, float]:
    """Mean and half-width of Student's t interval of `values`, in their own unit, with `tail` outside on each side."""
    n = len(values)
    middle = math.fsum(values) / n
    spread, freedom = spread_of(values, first_rounds=first_rounds)
    return middle, t_quantile(1 - tail, freedom) * spread / math.sqrt(n)


def spread_of(values: Sequence[float], *, first_rounds: int | None = None) -> tuple[float, int]:
    """The standard deviation of one round, and its degrees of freedom. Raises `ValueError` below two values."""
    stage = values if first_rounds is None else values[:first_rounds]
    if len(stage) < MIN_FOR_INTERVAL:
        raise ValueError(f"a spread needs two rounds or more, saw {len(stage)}")
    middle = math.fsum(stage) / len(stage)
    return math.sqrt(math.fsum((value - middle) ** 2 for value in stage) / (len(stage) - 1)), len(stage) - 1


@cache
def t_quantile(probability: float, freedom: float) -> float:
    """Quantile of Student's t with `freedom` degrees of freedom."""
    # Not `scipy.stats`, which takes half a second longer to import at the end of every run.
    from scipy.special import stdtrit

    return float(stdtrit(freedom, probability))


def proportion_lower_bound(held: int, attempted: int, *, level: float = 0.95) -> float | None:
    """The one-sided Clopper-Pearson lower bound of a proportion; None when nothing was attempted."""
    if not 0 <= held <= attempted:
        raise ValueError(f"held must lie between 0 and attempted, saw {held} of {attempted}")
    if attempted == 0:
        return None
    if held == 0:
        return 0.0
    if held == attempted:
        # The same to the last digit, without the import that would be the longest at the end of most runs.
        return math.pow(1 - level, 1 / attempted)
    from scipy.special import betaincinv

    return float(betaincinv(held, attempted - held + 1, 1 - level))
