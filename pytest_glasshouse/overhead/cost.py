"""Fixed costs of protection, and the total cost of a job of a given length.

The overhead of the training loop leaves set-up and zeroize out; the total cost includes them. The two are never mixed.
Input is in seconds, output in percent and USD; intervals are over rounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import MIN_FOR_INTERVAL, Interval, middle_and_reach

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Hours of raw training for which the total cost is given.
JOB_HOURS = (1, 8, 24, 168)


@dataclass(frozen=True, kw_only=True)
class Seconds:
    """A duration that occurs once per round: its mean, and its 95 % interval over rounds (None for one round)."""

    mean: float
    ci95: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class RoundCost:
    """The costs of one round. `log_ratio` is protected over raw in the loop; set-up ends with the load and excludes warm-up."""

    protected_setup_s: float
    raw_setup_s: float
    zeroize_s: float
    log_ratio: float


@dataclass(frozen=True, kw_only=True)
class JobCost:
    """The total cost of protection for `hours` of raw training: percent of the raw job, and money where a price is known."""

    hours: int
    pct: float
    ci95: Interval | None
    usd: float | None
    usd_ci95: tuple[float, float] | None


def seconds(values: Sequence[float]) -> Seconds:
    """Mean and 95 % t interval of one duration per round. Raises `ValueError` for none; the interval does not go below 0."""
    if not values:
        raise ValueError("no round has this duration")
    if len(values) < MIN_FOR_INTERVAL:
        return Seconds(mean=values[0], ci95=None)
    middle, reach = middle_and_reach(values, tail=0.025)
    return Seconds(mean=middle, ci95=(max(0.0, middle - reach), middle + reach))


def job_cost(rounds: Sequence[RoundCost], *, hours: int, usd_per_hour: float | None = None) -> JobCost:
    """Protected set-up, the work of `hours` raw hours at the protected rate and zeroize, over raw set-up and those hours.

    By round as the logarithm of that ratio, then the mean and Student's t over rounds. With o the loop's overhead the
    percentage is `[setup_p - setup_r + zeroize + 3600 h (1 / (1 - o) - 1)] / (setup_r + 3600 h)`.
    """
    if not rounds:
        raise ValueError("no round was measured")
    logs = [_log_cost(each, hours) for each in rounds]
    raw_hours = hours + math.fsum(each.raw_setup_s for each in rounds) / len(rounds) / 3600
    pct = math.expm1(math.fsum(logs) / len(logs)) * 100
    ci95 = None
    if len(logs) >= MIN_FOR_INTERVAL:
        middle, reach = middle_and_reach(logs, tail=0.025)
        ci95 = Interval(low=math.expm1(middle - reach) * 100, high=math.expm1(middle + reach) * 100)
    usd = None if usd_per_hour is None else usd_per_hour * raw_hours / 100
    return JobCost(
        hours=hours,
        pct=pct,
        ci95=ci95,
        usd=None if usd is None else usd * pct,
        usd_ci95=None if usd is None or ci95 is None else (usd * ci95.low, usd * ci95.high),
    )


def _log_cost(each: RoundCost, hours: int) -> float:
    loop_s = hours * 3600
    protected_s = each.protected_setup_s + loop_s * math.exp(-each.log_ratio) + each.zeroize_s
    return math.log(protected_s) - math.log(each.raw_setup_s + loop_s)
