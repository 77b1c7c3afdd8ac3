"""How many rounds a row needs in all for an interval of a given width: C. Stein's two-stage rule.

Computed once, from the spread of the first rounds only: not from the interval's position, and not again after later rounds.
Looking after every round until the result suits would raise a false alarm rate of 5 % to 22 %.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import BLOCKED_FROM, FIXED, MIN_FOR_INTERVAL, Sampling, mean_of_rounds, t_quantile

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The most rounds a row is extended to, however wide its interval: four times what a standard row has.
MOST_ROUNDS = 24
_MOST_PLANNED = 100_000


@dataclass(frozen=True, kw_only=True)
class Extension:
    """The decision: `wanted` rounds in all reach the width, `rounds` are allowed, `first_rounds` were measured before it."""

    first_rounds: int
    wanted: int
    rounds: int
    spread_pct: float
    half_width_pct: float


def rounds_of_spread(spread_pct: float, *, half_width_pct: float) -> int:
    """The rounds of which a 95 % interval, blocked by who started first, has this half-width where rounds spread so much.

    Never fewer than a verdict needs, nor more than a hundred thousand. Raises `ValueError` for no such width or spread.
    """
    if not (math.isfinite(half_width_pct) and half_width_pct > 0 and math.isfinite(spread_pct) and spread_pct >= 0):
        raise ValueError(f"expected a spread and a half-width, saw {spread_pct!r} and {half_width_pct!r}")
    wanted = max(BLOCKED_FROM, math.ceil((1.96 * spread_pct / half_width_pct) ** 2))
    while wanted < _MOST_PLANNED and t_quantile(0.975, wanted - 2) * spread_pct / math.sqrt(wanted) > half_width_pct:
        wanted += 1
    return min(wanted, _MOST_PLANNED)


def rounds_needed(
    first_rounds: Sequence[float], *, half_width_pct: float, max_rounds: int, sampling: Sampling = FIXED
) -> Extension:
    """Rounds in all, the first ones included, for a 95 % interval of at most plus or minus `half_width_pct` points.

    `first_rounds` are the log ratios of the first rounds, at least two; `max_rounds` is what budget and time allow in all.
    n = max(n0, ceil((t(.975, n0 - 1) s0 / d)^2)), d the half-width as a log ratio at an overhead of 0 (for a positive
    overhead it is a little narrower in percent, never wider). Raises `ValueError` for fewer rounds or no such width.
    """
    n = len(first_rounds)
    if n < MIN_FOR_INTERVAL:
        raise ValueError(f"an extension needs two first rounds or more, saw {n}")
    if not (math.isfinite(half_width_pct) and half_width_pct > 0):
        raise ValueError(f"a half-width must be finite and above 0, saw {half_width_pct!r}")
    found = mean_of_rounds(first_rounds, sampling)
    wanted = max(n, math.ceil((t_quantile(0.975, found.freedom) * found.spread / math.asinh(half_width_pct / 100)) ** 2))
    return Extension(
        first_rounds=n,
        wanted=wanted,
        rounds=max(n, min(wanted, max_rounds)),
        spread_pct=found.spread * 100,
        half_width_pct=half_width_pct,
    )
