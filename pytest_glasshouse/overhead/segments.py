"""Timed segments of interleaved rounds: pairs of raw and protected segments, by round.

This module knows the form in which they are passed in (`pairs` of a round) and refuses malformed ones. Times are whole
nanoseconds of the guest's clock, units those of the workload.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PairedLeg = Literal["protected", "raw"]


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


def round_segments(number: int, pairs: Sequence[Mapping[str, Any]]) -> RoundSegments:
    """The segments of a round, from `pairs` as an observation holds them.

    Each pair is `{number, first, protected: {units, elapsed_ns, cpu_ns}, raw: {...}}` with `raw2` where a second raw
    leg ran; then each has its `position` among the three. Other keys are ignored. Raises `ValueError` or `KeyError` for
    malformed pairs.
    """
    return RoundSegments(round=number, pairs=tuple(_pair(each) for each in pairs))


def _pair(given: Mapping[str, Any]) -> SegmentPair:
    first = given["first"]
    if first not in {"protected", "raw", "raw2"}:
        raise ValueError(f"first of a pair: expected protected, raw or raw2, saw {first!r}")
    second = given.get("raw2")
    if second is not None:
        # Of three turns the first may be the second raw leg's: `first` is the earlier of the two that are compared.
        first = "protected" if given["protected"]["position"] < given["raw"]["position"] else "raw"
    return SegmentPair(
        number=given["number"],
        first=cast("PairedLeg", first),
        protected=_segment(given["protected"]),
        raw=_segment(given["raw"]),
        raw2=None if second is None else _segment(second),
    )


def _segment(given: Mapping[str, Any]) -> Segment:
    return Segment(units=given["units"], elapsed_ns=given["elapsed_ns"], cpu_ns=given.get("cpu_ns"))
