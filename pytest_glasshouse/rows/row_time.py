"""Where the time of a row goes, before anything is rented: starts, loads, warm-ups, wash-outs and timed segments.

Starts and loads are assumed until they were measured; a target in steps is taken as one second a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.rows.interleaving import ASSUMED_LOAD_S, ASSUMED_START_S, assumed_cut, interleaving

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.rows.spec import RowSpec

#: Assumed seconds of a unit of work where the target is a number of units: not known before the first run.
STEP_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RowTime:
    """The seconds of all rounds of a row. `pairs` of a round is None where the legs run one after the other."""

    rounds: int
    pairs: int | None
    starts_s: float
    loads_s: float
    warmups_s: float
    washouts_s: float
    timed_s: float

    @property
    def total_s(self) -> float:
        return self.starts_s + self.loads_s + self.warmups_s + self.washouts_s + self.timed_s


def row_time(row: RowSpec, *, rounds: int | None = None) -> RowTime:
    """The time of `rounds` rounds of a row, by default of as many as it has."""
    rounds = row.rounds if rounds is None else rounds
    legs = 1 if row.sealed else 2
    turns = row.order == "interleaved" and row.resident
    design = interleaving(row) if turns else None
    pairs = None if design is None else assumed_cut(row).pairs if row.cut else design.pairs
    if design is None or pairs is None:
        washouts_s, timed_s = 0.0, row.target_s if row.target_s is not None else (row.steps or 0) * STEP_S
    else:
        segment_s = design.segment_s if design.segment_s is not None else (design.segment_steps or 0) * STEP_S
        washouts_s, timed_s = pairs * design.washout_s, pairs * segment_s
    every = rounds * legs
    return RowTime(
        rounds=rounds,
        pairs=pairs,
        starts_s=every * ASSUMED_START_S[row.workload],
        loads_s=every * ASSUMED_LOAD_S[row.workload],
        warmups_s=every * row.warmup_s,
        washouts_s=every * washouts_s,
        timed_s=every * timed_s,
    )


def time_lines(rows: Sequence[RowSpec]) -> Iterator[str]:
    """The GPU minutes of every row as lines of a table."""
    cells: list[tuple[str, ...]] = [("GPU minutes", "rounds", "starts", "loads", "warm-ups", "wash-outs", "timed", "in all")]
    cells += [_cells(row) for row in rows]
    yield from aligned(cells)


def _cells(row: RowSpec) -> tuple[str, ...]:
    found = row_time(row)
    of_pairs = "" if found.pairs is None else f" of {found.pairs} pairs"
    parts = (found.starts_s, found.loads_s, found.warmups_s, found.washouts_s, found.timed_s, found.total_s)
    return (row.name, f"{found.rounds}{of_pairs}", *(f"{each / 60:.1f}" for each in parts))


def aligned(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
