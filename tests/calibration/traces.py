"""Simulated traces of rented machines, and rows measured on them: truth known, everything else as on a shared GPU.

The model is log rate = machine warming up + heat + slope + noise that remembers 3 s, 60 s and 15 min + neighbours that come
and go + a process warming up + a process's own luck - the cost of protection. Three regimes: a quiet machine, a rented one
(its sequential rows scatter as the published ones do), and a hostile one whose neighbour never leaves. numpy only, by chunks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_glasshouse.overhead.segments import PairedLeg, RoundSegments, Segment, SegmentPair

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Regime:
    """Sizes as log rates (0.01 is a percent). `noise` is the spread at 3 s, 60 s and 900 s; events are per hour."""

    name: str
    warm: float
    heat: float
    slope: float
    noise: tuple[float, float, float]
    events: float
    depth: float


QUIET = Regime(name="quiet", warm=0.005, heat=0.003, slope=0.004, noise=(0.006, 0.005, 0.0065), events=0.05, depth=0.02)
RENTED = Regime(name="rented", warm=0.02, heat=0.01, slope=0.008, noise=(0.01, 0.01, 0.011), events=0.4, depth=0.2)
HOSTILE = Regime(name="hostile", warm=0.02, heat=0.01, slope=0.01, noise=(0.02, 0.02, 0.02), events=3.0, depth=0.16)
REGIMES = (QUIET, RENTED, HOSTILE)

#: A round's clock, in seconds: set-up, warm-up of either leg, then pairs of two turns (wash-out and segment), then zeroize.
SETUP_S, WARMUP_S, WASHOUT_S, SEGMENT_S, ZEROIZE_S = 20, 60, 5, 20, 10
PAIRS = 9
TURN_S = WASHOUT_S + SEGMENT_S
ROUND_S = SETUP_S + 2 * WARMUP_S + PAIRS * 2 * TURN_S + ZEROIZE_S
_CHUNK = 500
#: Units per second of an undisturbed leg: large, so that whole units do not round anything away.
_RATE = 1e6


def machine(regime: Regime, rows: int, seconds: int, rng: np.random.Generator) -> Array:
    """The log rate that everything on the machine shares: `(rows, seconds)`, one bin per second."""
    from scipy.signal import lfilter

    t = np.arange(seconds, dtype=np.float64)
    slope = rng.normal(0.0, regime.slope / 3600, (rows, 1))
    shared: Array = -regime.warm * np.exp(-t / 60) - regime.heat * (1 - np.exp(-t / 300)) + slope * t
    for tau, size in zip((3.0, 60.0, 900.0), regime.noise, strict=True):
        phi = math.exp(-1 / tau)
        white = rng.normal(0.0, size * math.sqrt(1 - phi * phi), (rows, seconds))
        white[:, 0] = rng.normal(0.0, size, rows)
        shared = shared + lfilter([1.0], [1.0, -phi], white, axis=1)
    return shared - _events(regime, rows, seconds, rng)


def _events(regime: Regime, rows: int, seconds: int, rng: np.random.Generator) -> Array:
    """Neighbours: Poisson arrivals, exponential depth, log-normal length with a median of ten minutes."""
    before = 3600
    steps = np.zeros((rows, before + seconds + 1))
    counts = rng.poisson(regime.events * (before + seconds) / 3600, rows)
    row = np.repeat(np.arange(rows), counts)
    start = rng.integers(0, before + seconds, row.size)
    end = np.minimum(start + np.maximum(1, rng.lognormal(math.log(600), 1.0, row.size)).astype(int), before + seconds)
    depth = rng.exponential(regime.depth, row.size)
    np.add.at(steps, (row, start), depth)
    np.add.at(steps, (row, end), -depth)
    return np.cumsum(steps, axis=1)[:, before:-1]


def interleaved(
    regime: Regime, *, rows: int, rounds: int, overhead_pct: float, start_spread: float, seed: int
) -> Iterator[list[RoundSegments]]:
    """Rows of interleaved rounds, one after the other on one machine each, whose true overhead is `overhead_pct`.

    `start_spread` is the standard deviation of a process start's own luck, as a log rate.
    """
    rng = np.random.default_rng(seed)
    for first in range(0, rows, _CHUNK):
        count = min(_CHUNK, rows - first)
        units, order = _turns(regime, count, rounds, overhead_pct, start_spread, rng)
        for row in range(count):
            yield [_round(number, units[row, number], order[row, number]) for number in range(rounds)]


def _turns(
    regime: Regime, rows: int, rounds: int, overhead_pct: float, start_spread: float, rng: np.random.Generator
) -> tuple[Array, Any]:
    """Mean rates `(rows, rounds, pairs, 2)` in the order (protected, raw), and whether protected ran first."""
    shared = machine(regime, rows, rounds * ROUND_S, rng).reshape(rows, rounds, ROUND_S)
    body = shared[:, :, SETUP_S + 2 * WARMUP_S : -ZEROIZE_S].reshape(rows, rounds, PAIRS, 2, TURN_S)
    # What a leg has run before this turn: its warm-up, then whole turns.
    ran = WARMUP_S + TURN_S * np.arange(PAIRS)[:, None] + np.arange(TURN_S)
    since = np.arange(TURN_S)
    own = -0.3 * np.exp(-ran / 20) - 0.15 * np.exp(-since / 1.5)
    rates = np.exp(body + own[None, None, :, None, :])[..., WASHOUT_S:].mean(axis=-1)
    protected_first = rng.integers(0, 2, (rows, rounds, PAIRS)).astype(bool)
    by_leg = np.where(protected_first[..., None], rates, rates[..., ::-1])
    luck = np.exp(rng.normal(0.0, start_spread, (rows, rounds, 1, 2)))
    cost = np.array([1 - overhead_pct / 100, 1.0])
    return by_leg * luck * cost, protected_first


def _round(number: int, rates: Array, protected_first: Any) -> RoundSegments:
    elapsed_ns = SEGMENT_S * 10**9
    counts = np.rint(rates * (SEGMENT_S * _RATE)).astype(int).tolist()
    pairs = []
    for place, (protected, raw) in enumerate(counts, 1):
        first: PairedLeg = "protected" if protected_first[place - 1] else "raw"
        pairs.append(
            SegmentPair(
                number=place,
                first=first,
                protected=Segment(units=protected, elapsed_ns=elapsed_ns),
                raw=Segment(units=raw, elapsed_ns=elapsed_ns),
            )
        )
    return RoundSegments(round=number + 1, pairs=tuple(pairs))


def sequential_log_ratios(
    regime: Regime, *, rows: int, rounds: int, leg_s: int, overhead_pct: float, start_spread: float, seed: int
) -> Array:
    """`(rows, rounds)` log ratios of sequential rounds: whole legs one after the other, order balanced at random."""
    rng = np.random.default_rng(seed)
    found = []
    for first in range(0, rows, _CHUNK):
        count = min(_CHUNK, rows - first)
        leg = SETUP_S + 5 + leg_s
        shared = machine(regime, count, rounds * 2 * leg, rng).reshape(count, rounds, 2, leg)[..., SETUP_S + 5 :]
        own = -0.3 * np.exp(-(5 + np.arange(leg_s)) / 20)
        rates = np.log(np.exp(shared + own).mean(axis=-1)) + rng.normal(0.0, start_spread, (count, rounds, 2))
        forward = np.tile(np.arange(rounds) % 2 == 0, (count, 1))
        forward = rng.permuted(forward, axis=1)
        difference = rates[..., 0] - rates[..., 1]
        found.append(np.where(forward, difference, -difference) + math.log1p(-overhead_pct / 100))
    return np.concatenate(found)
