"""Designs compared at equal GPU time: rows on machines whose truth is known, all rows of a cell at once.

The machine is a log rate in bins of five seconds, shared by both legs, and each leg's own part: the luck of its process start, what
it costs to start first or to take the first turn, noise of a turn. numpy only, no code of the product: its estimator is written again
here, and `test_designs` compares both row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]

BIN_S = 5
#: Bins of a turn: wash-out and segment; and of a round beside its turns: starts, loading, warm-up, zeroize.
WASHOUT_BINS, SEGMENT_BINS, ROUND_COST_BINS = 1, 4, 20
TURN_BINS = WASHOUT_BINS + SEGMENT_BINS
_CHUNK = 500


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Sizes as log rates (0.01 is a percent), all of them standard deviations or shifts; times in seconds.

    `steps` clock steps an hour, `neighbours` an hour that each last ten minutes on average; `bimodal` of all starts are slow by 1 %.
    """

    turn: float = 0.003
    start: float = 0.002
    drift: float = 0.0
    steps: float = 0.0
    ramp: float = 0.0
    neighbours: float = 0.0
    bimodal: float = 0.0
    tails: bool = False
    first_turn: float = 0.0
    first_start: float = 0.0


MACHINES: dict[str, Machine] = {
    "white": Machine(),
    "drift": Machine(drift=0.02),
    "clock steps": Machine(steps=4.0),
    "start 0.2 %": Machine(turn=0.004),
    "start 0.5 %": Machine(start=0.005),
    "start 1 %": Machine(start=0.01),
    "start 3 %": Machine(start=0.03),
    "bimodal starts": Machine(bimodal=0.3),
    "heavy tails": Machine(tails=True),
    "first turn 1 % slower": Machine(first_turn=0.01),
    "first turn 3 % slower": Machine(first_turn=0.03),
    "first start 1 % slower": Machine(first_start=0.01),
    "first start 3 % slower": Machine(first_start=0.03),
    "ramps": Machine(ramp=0.05),
    "neighbours": Machine(neighbours=2.0),
}


@dataclass(frozen=True, kw_only=True)
class Design:
    """Rounds and pairs of a row. `balanced`: turns within a round, and an estimate by blocks of who started first."""

    rounds: int
    pairs: int
    balanced: bool

    @property
    def round_bins(self) -> int:
        return ROUND_COST_BINS + self.pairs * 2 * TURN_BINS

    @property
    def minutes(self) -> float:
        return self.rounds * self.round_bins * BIN_S / 60


def simulated(machine: Machine, design: Design, *, rows: int, overhead_pct: float, seed: int) -> tuple[Array, Array]:
    """Log ratios `(rows, rounds)`, and by round 1 where the protected leg started first, else -1."""
    rng = np.random.default_rng(seed)
    found = [
        _rounds(machine, design, min(_CHUNK, rows - first), math.log1p(-overhead_pct / 100), rng)
        for first in range(0, rows, _CHUNK)
    ]
    return np.concatenate([ratios for ratios, _ in found]), np.concatenate([starts for _, starts in found])


def _rounds(machine: Machine, design: Design, rows: int, effect: float, rng: np.random.Generator) -> tuple[Array, Array]:
    shape = (rows, design.rounds, design.pairs)
    shared = _shared(machine, design, rows, rng)
    body = shared.reshape(rows, design.rounds, design.round_bins)[:, :, ROUND_COST_BINS:]
    by_place = np.exp(body.reshape(*shape, 2, TURN_BINS)[..., WASHOUT_BINS:]).mean(axis=-1)
    protected_first = _turns(design, rows, rng)
    # By leg, protected and raw: the rate at the leg's place in its pair.
    rates = np.where(protected_first[..., None], by_place, by_place[..., ::-1])
    starts = _starts(design, rows, rng)
    own = rng.normal(0.0, machine.start, (rows, design.rounds, 2))
    own = own - 0.01 * (rng.random((rows, design.rounds, 2)) < machine.bimodal)
    own[..., 0] += effect - machine.first_start * (starts > 0)
    own[..., 1] -= machine.first_start * (starts < 0)
    if machine.tails:
        noise = rng.standard_t(2.5, (*shape, 2)) * machine.turn / math.sqrt(5)
    else:
        noise = rng.normal(0.0, machine.turn, (*shape, 2))
    slower = np.stack([protected_first, ~protected_first], axis=-1) * machine.first_turn
    totals = (rates * np.exp(own[:, :, None, :] + noise - slower)).sum(axis=2)
    return np.log(totals[..., 0]) - np.log(totals[..., 1]), starts


def _turns(design: Design, rows: int, rng: np.random.Generator) -> Any:
    """Whether the protected leg takes the first turn: drawn for each pair, or half of a round's pairs."""
    shape = (rows, design.rounds, design.pairs)
    if not design.balanced:
        return rng.integers(0, 2, shape).astype(bool)
    return rng.permuted(np.broadcast_to(np.arange(design.pairs) % 2 == 0, shape), axis=2)


def _starts(design: Design, rows: int, rng: np.random.Generator) -> Array:
    """Of two successive rounds the protected leg starts first in one."""
    twos = rng.permuted(np.broadcast_to(np.array([1.0, -1.0]), (rows, (design.rounds + 1) // 2, 2)), axis=2)
    found: Array = twos.reshape(rows, -1)[:, : design.rounds]
    return found


def _shared(machine: Machine, design: Design, rows: int, rng: np.random.Generator) -> Array:
    """The log rate that both legs share, `(rows, bins)`."""
    bins = design.rounds * design.round_bins
    hours = bins * BIN_S / 3600
    at = np.arange(bins) / bins
    found: Array = rng.normal(0.0, machine.drift, (rows, 1)) * hours * at
    if machine.ramp:
        since = np.arange(bins) % design.round_bins / design.round_bins
        found = found - machine.ramp * rng.random((rows, 1)) * np.exp(-3 * since)
    if machine.steps:
        happened = rng.random((rows, bins)) < machine.steps * BIN_S / 3600
        found = found + np.cumsum(happened * rng.normal(0.0, 0.01, (rows, bins)), axis=1)
    if machine.neighbours:
        found = found - _neighbours(machine, rows, bins, rng)
    return np.broadcast_to(found, (rows, bins))


def _neighbours(machine: Machine, rows: int, bins: int, rng: np.random.Generator) -> Array:
    before = 3600 // BIN_S
    steps = np.zeros((rows, before + bins + 1))
    counts = rng.poisson(machine.neighbours * (before + bins) * BIN_S / 3600, rows)
    row = np.repeat(np.arange(rows), counts)
    start = rng.integers(0, before + bins, row.size)
    end = np.minimum(start + np.maximum(1, rng.exponential(600 / BIN_S, row.size)).astype(int), before + bins)
    depth = rng.exponential(0.1, row.size)
    np.add.at(steps, (row, start), depth)
    np.add.at(steps, (row, end), -depth)
    found: Array = np.cumsum(steps, axis=1)[:, before:-1]
    return found


def means(ratios: Array, starts: Array, *, blocked: bool) -> tuple[Array, Array, int]:
    """Means over rounds, their standard errors, and the degrees of freedom."""
    rounds = ratios.shape[1]
    if not blocked:
        return ratios.mean(axis=1), ratios.std(axis=1, ddof=1) / math.sqrt(rounds), rounds - 1
    ahead, behind = starts > 0, starts < 0
    counts = ahead.sum(axis=1), behind.sum(axis=1)
    of_ahead, of_behind = (ratios * ahead).sum(axis=1) / counts[0], (ratios * behind).sum(axis=1) / counts[1]
    residual = ratios - np.where(ahead, of_ahead[:, None], of_behind[:, None])
    spread2 = (residual**2).sum(axis=1) / (rounds - 2)
    return (of_ahead + of_behind) / 2, np.sqrt(spread2 * (1 / counts[0] + 1 / counts[1]) / 4), rounds - 2


def bounds(ratios: Array, starts: Array, *, blocked: bool, tail: float) -> tuple[Array, Array]:
    """Lower and upper bound of the overhead in percent, with `tail` outside each."""
    from scipy.special import stdtrit

    middle, error, freedom = means(ratios, starts, blocked=blocked)
    reach = float(stdtrit(freedom, 1 - tail)) * error
    return -np.expm1(middle + reach) * 100, -np.expm1(middle - reach) * 100
