"""Units and seconds in, percent out. Pure arithmetic: this room knows no leg, no row and no clock."""

from __future__ import annotations

import math

#: Beyond this exponential a double overflows: a figure of 10^306 % says as well that it is nonsense.
_MOST = 700.0


def rate(units: float, seconds: float) -> float:
    """Units per second. Refuses what cannot be a measured leg: nothing done, or no time taken."""
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
    """The logarithm of protected over raw: what is averaged over rounds, because ratios multiply."""
    return math.log(protected_rate) - math.log(raw_rate)


def overhead_of_log_ratio(value: float) -> float:
    """Percent overhead of a log ratio. Falls as the log ratio rises, so bounds swap sides."""
    return -math.expm1(min(value, _MOST)) * 100
