"""Timed segments of interleaved rounds: pairs of raw and protected segments, by round.

This module knows the form in which they are passed in (`pairs` of a round) and refuses malformed ones. Times are whole
nanoseconds of the guest's clock, units those of the workload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

PairedLeg = Literal["protected", "raw"]


class TurnFigures(TypedDict):
    """One leg's part of a pair. Times in nanoseconds; `turn_` and `others_` are the agent's counts over the whole turn."""

    units: int
    elapsed_ns: int
    cpu_ns: int
    position: int
    wash_units: int
    wash_ns: int
    turn_ns: int
    turn_cpu_ns: int
    others_cpu_ns: int


class Pair(TypedDict):
    """One turn of each leg of a round. `first` is whose turn came first."""

    number: int
    first: Literal["protected", "raw", "raw2"]
    protected: NotRequired[TurnFigures]
    raw: NotRequired[TurnFigures]
    raw2: NotRequired[TurnFigures]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One leg's timed training after its wash-out: whole steps, device-synchronised, drained.

    `cpu_ns` is the processor time of the leg's processes in it, None where it was not read.
    """

    units: int
    elapsed_ns: int
    cpu_ns: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("units", self.units), ("elapsed_ns", self.elapsed_ns)):
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ValueError(f"a segment's {name}: expected a whole number above 0, saw {value!r}")

    @property
    def per_ns(self) -> float:
        """Units per nanosecond."""
        return self.units / self.elapsed_ns


@dataclass(frozen=True, kw_only=True)
class SegmentPair:
    """A protected and a raw segment, one right after the other, `first` drawn at random.

    `number` counts from 1 within its round. `raw2` is the second raw leg's segment in R/R' triples.
    """

    number: int
    first: PairedLeg
    protected: Segment
    raw: Segment
    raw2: Segment | None = None


@dataclass(frozen=True, kw_only=True)
class RoundSegments:
    """All pairs of one round, in the order they ran."""

    round: int
    pairs: tuple[SegmentPair, ...]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(f"round {self.round} has no pair of segments")
        if [each.number for each in self.pairs] != list(range(1, len(self.pairs) + 1)):
            raise ValueError(f"round {self.round}: expected pairs 1 to {len(self.pairs)}, each once, in order")


def round_segments(number: int, pairs: Sequence[Pair]) -> RoundSegments:
    """The segments of a round, from its pairs. Raises `ValueError` or `KeyError` for malformed ones."""
    return RoundSegments(round=number, pairs=tuple(_pair(each) for each in pairs))


def _pair(given: Pair) -> SegmentPair:
    if given["first"] not in {"protected", "raw", "raw2"}:
        raise ValueError(f"first of a pair: expected protected, raw or raw2, saw {given['first']!r}")
    protected, raw, second = given["protected"], given["raw"], given.get("raw2")
    # Of three turns the first may be the second raw leg's: `first` is the earlier of the two that are compared.
    is_first = given["first"] == "protected" if second is None else protected["position"] < raw["position"]
    return SegmentPair(
        number=given["number"],
        first="protected" if is_first else "raw",
        protected=_segment(protected),
        raw=_segment(raw),
        raw2=None if second is None else _segment(second),
    )


def _segment(given: TurnFigures) -> Segment:
    return Segment(units=given["units"], elapsed_ns=given["elapsed_ns"], cpu_ns=given.get("cpu_ns"))
