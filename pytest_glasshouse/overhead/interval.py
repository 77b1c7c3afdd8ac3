"""Rates and overheads of rounds, and their intervals: Student's t on the rounds' log ratios.

A process start is a random draw (autotuning, allocator layout), so the round is the unit, never a step or a pair, and the
degrees of freedom are rounds - 1. Where a row was extended once after its first rounds (`overhead.extension`), `first_rounds` is
their number: spread and degrees of freedom are then those of the first rounds alone, which keeps the interval exact although
their spread decided how many more there are (C. Stein, Ann. Math. Statist. 16, 1945). Where the rounds are known by the leg that
started first, that is a block: the mean is that of both blocks' means, the spread the one inside them, at one degree of freedom.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.sequential import nominal_tail

if TYPE_CHECKING:
    from collections.abc import Sequence

#: One round has no spread.
MIN_FOR_INTERVAL = 2
#: With fewer rounds there is no verdict, and a block takes one of few degrees of freedom.
BLOCKED_FROM = 5
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


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a row's rounds came about, as far as an interval over them depends on it.

    `first_rounds`: the row was extended, once, by the spread of that many. `starts`: by round, 1 where the protected leg started
    first and -1 where another did; empty where that is not estimated. `sequential`: the row could end at each of
    `overhead.sequential.LOOKS`.
    """

    first_rounds: int | None = None
    starts: tuple[int, ...] = ()
    sequential: bool = False


#: As many rounds as were planned, of one block.
FIXED = Sampling()


@dataclass(frozen=True, kw_only=True)
class MeanOfRounds:
    """A mean over rounds, its standard error and that error's degrees of freedom; `spread` is of one round."""

    mean: float
    error: float
    freedom: int
    spread: float


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


def mean_overhead_pct(log_ratios: Sequence[float], sampling: Sampling = FIXED) -> float:
    """The headline over rounds: the overhead of the mean log ratio."""
    if not log_ratios:
        raise ValueError("no round was measured")
    return overhead_of_log_ratio(mean_of(log_ratios, sampling))


def interval_pct(log_ratios: Sequence[float], *, level: float, sampling: Sampling = FIXED) -> Interval | None:
    """The two-sided t interval at `level` (0.95 or 0.90), in percent; None below two rounds."""
    return _bounds_pct(log_ratios, tail=(1 - level) / 2, sampling=sampling)


def one_sided_bounds_pct(log_ratios: Sequence[float], *, level: float = 0.95, sampling: Sampling = FIXED) -> Interval | None:
    """The one-sided lower and upper bound, each at `level`, in percent; None below two rounds."""
    return _bounds_pct(log_ratios, tail=1 - level, sampling=sampling)


def _bounds_pct(log_ratios: Sequence[float], *, tail: float, sampling: Sampling) -> Interval | None:
    if len(log_ratios) < MIN_FOR_INTERVAL:
        return None
    middle, reach = middle_and_reach(log_ratios, tail=tail, sampling=sampling)
    return Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))


def middle_and_reach(values: Sequence[float], *, tail: float, sampling: Sampling = FIXED) -> tuple[float, float]:
    """Mean and half-width of Student's t interval of `values`, in their own unit, with `tail` outside on each side."""
    found = mean_of_rounds(values, sampling)
    outside = nominal_tail(tail, len(values)) if sampling.sequential else tail
    return found.mean, t_quantile(1 - outside, found.freedom) * found.error


def mean_of_rounds(values: Sequence[float], sampling: Sampling = FIXED) -> MeanOfRounds:
    """The mean of one value per round with its standard error. Raises `ValueError` below two values."""
    stage = values if sampling.first_rounds is None else values[: sampling.first_rounds]
    if len(stage) < MIN_FOR_INTERVAL:
        raise ValueError(f"a spread needs two rounds or more, saw {len(stage)}")
    blocks = _blocks(stage, sampling)
    squares = math.fsum((value - math.fsum(block) / len(block)) ** 2 for block in blocks for value in block)
    freedom = len(stage) - len(blocks)
    spread = math.sqrt(squares / freedom)
    of_all = _blocks(values, sampling)
    share = math.fsum(1 / len(block) for block in of_all) / len(of_all) ** 2
    return MeanOfRounds(mean=mean_of(values, sampling), error=spread * math.sqrt(share), freedom=freedom, spread=spread)


def mean_of(values: Sequence[float], sampling: Sampling = FIXED) -> float:
    """The mean of the blocks' means."""
    blocks = _blocks(values, sampling)
    return math.fsum(math.fsum(block) / len(block) for block in blocks) / len(blocks)


def _blocks(values: Sequence[float], sampling: Sampling) -> list[list[float]]:
    """The values by who started first; all in one block where there are too few of either."""
    if len(values) < BLOCKED_FROM or len(sampling.starts) < len(values):
        return [list(values)]
    marked = list(zip(values, sampling.starts, strict=False))
    blocks = [[value for value, start in marked if (start > 0) is ahead] for ahead in (True, False)]
    return blocks if min(map(len, blocks)) >= MIN_FOR_INTERVAL else [list(values)]


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
