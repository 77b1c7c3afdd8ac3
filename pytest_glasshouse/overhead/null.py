"""Null comparisons: raw against raw, which shows what the allocation measures where nothing differs.

A null qualifies when its 90 % interval lies inside the margin. Three kinds: halves of the raw leg's own segments, which compare a
process with itself and say nothing about starts; a second raw process (R') in the same rounds; and between processes, over all
rounds of an allocation's null rows and second raw legs, which decides whether its measured rows may conclude anything.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.overhead.interval import Interval, Sampling, interval_pct, overhead_of_log_ratio

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.overhead.segments import RoundSegments, Segment


NullKind = Literal["split halves", "second raw leg", "between processes"]


@dataclass(frozen=True, kw_only=True)
class Null:
    """One null over the rounds, as an overhead in percent. `ci90` is None below two rounds."""

    kind: NullKind
    log_ratios: tuple[float, ...]
    pct: float
    ci90: Interval | None

    def qualifies(self, margin_pct: float) -> bool:
        """Whether the 90 % interval lies inside the margin."""
        return self.ci90 is not None and self.ci90.inside(margin_pct)


def measured_nulls(rounds: Sequence[RoundSegments], *, first_rounds: int | None = None) -> tuple[Null, ...]:
    """Every null that all rounds allow: a kind that one round is too short for, or did not run, is left out."""
    halves = [value for each in rounds if (value := split_halves(each)) is not None]
    repeated = [value for each in rounds if (value := second_raw(each)) is not None]
    found: list[Null] = []
    if len(halves) == len(rounds):
        found.append(null_of("split halves", halves, first_rounds))
    if len(repeated) == len(rounds):
        found.append(null_of("second raw leg", repeated, first_rounds))
    return tuple(found)


def split_halves(each: RoundSegments) -> float | None:
    """The log ratio of totals of two halves of a round's raw segments; None below four segments.

    Of two consecutive segments one goes to either half, chosen by a digest of round and position: fixed before anything is
    measured, and in step with no periodic disturbance. An odd last segment is left out.
    """
    raw = [pair.raw for pair in each.pairs]
    halves: tuple[list[Segment], list[Segment]] = ([], [])
    for place in range(0, len(raw) - 1, 2):
        swapped = swaps_neighbours(each.round, place)
        halves[swapped].append(raw[place])
        halves[1 - swapped].append(raw[place + 1])
    if len(halves[0]) < 2:  # noqa: PLR2004  (one segment each is too few)
        return None
    return _log_rate(halves[0]) - _log_rate(halves[1])


def swaps_neighbours(number: int, place: int) -> int:
    """0 or 1: to which half the first of two neighbouring raw segments goes, by their round and the first one's place in it."""
    return hashlib.sha256(f"glasshouse-null/1\n{number}\n{place}".encode()).digest()[0] & 1


def second_raw(each: RoundSegments) -> float | None:
    """The log ratio of totals of the second raw leg over the first; None unless every pair has both."""
    second = [pair.raw2 for pair in each.pairs if pair.raw2 is not None]
    if len(second) != len(each.pairs):
        return None
    return _log_rate(second) - _log_rate([pair.raw for pair in each.pairs])


def _log_rate(segments: Sequence[Segment]) -> float:
    return math.log(sum(each.units for each in segments)) - math.log(sum(each.elapsed_ns for each in segments))


def null_of(kind: NullKind, log_ratios: Sequence[float], first_rounds: int | None = None) -> Null:
    """The null with one log ratio per round."""
    return Null(
        kind=kind,
        log_ratios=tuple(log_ratios),
        pct=overhead_of_log_ratio(math.fsum(log_ratios) / len(log_ratios)),
        ci90=interval_pct(log_ratios, level=0.90, sampling=Sampling(first_rounds=first_rounds)),
    )
