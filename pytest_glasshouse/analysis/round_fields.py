"""How a row's number of rounds came about, typed: the extension, the cut of its time, and the looks at it."""

from __future__ import annotations

from typing import TypedDict


class ExtensionFigures(TypedDict):
    """How far a row was extended after its first rounds."""

    halfWidthPct: float
    firstRounds: int
    firstCi95Pct: list[float] | None
    spreadPct: float
    wanted: int
    rounds: int


class CutFigures(TypedDict):
    """How the first round cut a row's time: what it cost beside its turns and what a pair took, and what follows from that."""

    roundCostSec: float
    pairSec: float
    rounds: int
    pairs: int


class LookFigures(TypedDict):
    """What was seen under the limit after so many rounds."""

    rounds: int
    judgement: str
    lower95Pct: float | None
    upper95Pct: float | None


class SequentialFigures(TypedDict):
    """Every look at a row that may end before its last round, and how many rounds it has by them."""

    rounds: int
    looks: list[LookFigures]


class ExtensionRecord(TypedDict, total=False):
    """The extension, where the plan has a width to extend to."""

    extension: ExtensionFigures


class CutRecord(TypedDict, total=False):
    """The cut, where the plan has a time to cut."""

    cut: CutFigures


class SequentialRecord(TypedDict, total=False):
    """The looks, where the plan has any."""

    sequential: SequentialFigures
