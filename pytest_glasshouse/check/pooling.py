"""Rows of several reports grouped for pooling: same workload, GPU model and kind of order, one value per round.

Every completed round counts, also of excluded rows: a pool of the good rows only would be biased. A second pool has the rounds
of rows whose null qualified. A GPU with a known UUID is one allocation, however often it was rented.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import log_ratios
from pytest_glasshouse.analysis.wording import figure_with_interval
from pytest_glasshouse.errors import GlasshouseError, ReportError
from pytest_glasshouse.overhead.interval import log_ratio, rate
from pytest_glasshouse.overhead.pool import MIN_ALLOCATIONS, Pooled, pool
from pytest_glasshouse.wire.printable import counted, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import ExcludedRow, MeasuredRow
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult
    from pytest_glasshouse.report.fields import Report

    Derive = Callable[[Observation], Sequence[RoundResult]]


@dataclass(frozen=True, kw_only=True, order=True)
class PooledKind:
    """What rounds must have in common to be pooled. Only a pool of enough allocations may name `gpu_model`."""

    workload: str
    model: str
    gpu_model: str
    order: str
    dry_run: bool

    def description(self, *, gpu: bool) -> str:
        """The kind as text; with the GPU's name only if `gpu`, and never in a dry run."""
        where = f" on {printable(self.gpu_model)}" if gpu and not self.dry_run else ""
        model = f" {printable(self.model)}" if self.model else ""
        return f"{self.workload}{model}{where}, {self.order}" + (", dry run" if self.dry_run else "")


@dataclass(kw_only=True)
class Group:
    """The log ratios of one kind by allocation: of all completed rounds, and of qualifying rows."""

    kind: PooledKind
    completed: dict[str, list[float]] = field(default_factory=dict)
    qualifying: dict[str, list[float]] = field(default_factory=dict)

    def pooled(self, *, margin_pct: float) -> tuple[Pooled | None, Pooled | None]:
        """The pools of all completed rounds (the headline) and of qualifying rows; None below three allocations."""
        return (
            pool(list(self.completed.values()), margin_pct=margin_pct),
            pool(list(self.qualifying.values()), margin_pct=margin_pct),
        )


def groups(documents: Sequence[Report], *, derive: Derive | None = None) -> list[Group]:
    """Group the rows of checked reports. Raises `ReportError` when the same row of the same run is given twice.

    `derive` reads rounds from an observation, by default `observation.results.results`.
    """
    if derive is None:
        from pytest_glasshouse.observation.results import results

        derive = results
    found: dict[PooledKind, Group] = {}
    seen: set[tuple[str, str]] = set()
    for document in documents:
        rows: list[MeasuredRow | ExcludedRow] = [*document["rows"], *document["excludedResults"]]
        for row in rows:
            name = (document["runId"], row["rowId"])
            if name in seen:
                raise ReportError(f"row {row['name']} of run {document['runId']} is given twice; name every report once")
            seen.add(name)
            ratios = _ratios(row, derive)
            if not ratios:
                continue
            group = found.setdefault(_kind(row), Group(kind=_kind(row)))
            where = row["gpuUuid"] or f"{document['runId']} {row['allocationName']}"
            group.completed.setdefault(where, []).extend(ratios)
            if row.get("nullQualifies"):
                group.qualifying.setdefault(where, []).extend(ratios)
    return [found[kind] for kind in sorted(found)]


def lines(group: Group, *, margin_pct: float) -> Iterator[str]:
    """A group as lines of text: figures with their intervals, or that there are too few allocations for one."""
    completed, qualifying = group.pooled(margin_pct=margin_pct)
    count, rounds = len(group.completed), sum(map(len, group.completed.values()))
    yield f"{group.kind.description(gpu=completed is not None)}: {counted(count, 'allocation')}, {counted(rounds, 'round')}"
    yield f"  all completed rounds: {_shown(completed, group.completed)}"
    yield f"  qualifying rows:      {_shown(qualifying, group.qualifying)}"
    if completed is not None:
        between = "unknown" if completed.between_pct is None else f"{completed.between_pct:.2f} points"
        yield f"  by {completed.estimator}; between allocations {between}"


def _shown(found: Pooled | None, given: Mapping[str, Sequence[float]]) -> str:
    if found is None:
        return f"no figure, and no GPU is named: {counted(len(given), 'allocation')}, a pool takes {MIN_ALLOCATIONS}"
    figure = figure_with_interval(found.pct, (found.ci95.low, found.ci95.high))
    return (
        f"{figure}, {found.allocations} allocations, {found.rounds} rounds: {found.judged.verdict.value} ({found.judged.reason})"
    )


def _kind(row: MeasuredRow | ExcludedRow) -> PooledKind:
    return PooledKind(
        workload=row["workload"],
        model=row["modelId"] or "",
        gpu_model=row["gpuModel"] or "",
        order="interleaved" if row["order"] == "interleaved" else "sequential",
        dry_run=row["dryRun"],
    )


def _ratios(row: MeasuredRow | ExcludedRow, derive: Derive) -> list[float]:
    """One log ratio for every round of which both legs were measured."""
    if "roundFigures" in row:
        return log_ratios(row)
    if not row["observation"]:
        return []
    try:
        rounds = derive(row["observation"])
        return [
            log_ratio(*(rate(leg.units, leg.elapsed_ns / 1e9) for leg in (each.protected, each.raw)))
            for each in rounds
            if each.protected is not None and each.raw is not None
        ]
    except (GlasshouseError, KeyError, ValueError):
        # The observation of an excluded row may be incomplete; what cannot be read is no completed round.
        return []
