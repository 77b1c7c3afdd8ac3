"""What the site knows of each report: one entry a run with its rows. Small enough for a thousand runs in one page."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import log_ratios
from pytest_glasshouse.analysis.sampling import sampling_of
from pytest_glasshouse.analysis.wording import printed_pct
from pytest_glasshouse.overhead.interval import MIN_FOR_INTERVAL, mean_of, mean_of_rounds
from pytest_glasshouse.render.page_table import spent_usd, standing
from pytest_glasshouse.report.attempts import row_title
from pytest_glasshouse.report.failures import failures, rows_of

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.report.failures import RowFailure
    from pytest_glasshouse.report.fields import Report


@dataclass(frozen=True, kw_only=True)
class SiteRow:
    """One row of one run. Figures are in percent, None where a row has none.

    `mean`, `variance` and `freedom` are those of the mean log ratio over rounds, for comparing two runs.
    """

    row_id: str
    name: str
    gpu: str
    workload: str
    provider: str
    order: str
    word: str
    css: str
    dry_run: bool
    pct: float | None = None
    low: float | None = None
    high: float | None = None
    mean: float | None = None
    variance: float | None = None
    freedom: int | None = None
    failure: str = ""

    @property
    def key(self) -> str:
        """What its history is one of: the same row on the same kind of GPU."""
        return f"{self.row_id} {self.gpu}"


@dataclass(frozen=True, kw_only=True)
class SiteRun:
    """One report."""

    run_id: str
    created_at: str
    commit: str
    rows: tuple[SiteRow, ...]
    held: int
    attempted: int
    usd: float | None

    @property
    def failed(self) -> list[SiteRow]:
        return [each for each in self.rows if each.failure]


def site_run(document: Report) -> SiteRun:
    """The entry of a report that was found sound."""
    rows = rows_of(document)
    failed = {each.row_id: each for each in failures(rows)}
    lifecycle = document["summary"]["lifecycle"]
    costs = [cost for row in rows if (cost := spent_usd(row)) is not None]
    return SiteRun(
        run_id=document["runId"],
        created_at=document["createdAt"],
        commit=(document["subject"]["gitCommit"] or "")[:12],
        rows=tuple(_row(row, failed) for row in rows),
        held=lifecycle["held"],
        attempted=lifecycle["attempted"],
        usd=math.fsum(costs) if costs else None,
    )


def _row(row: RowRecord, failed: dict[str, RowFailure]) -> SiteRow:
    shown = standing(row, failed)
    failure = failed.get(row["rowId"])
    figures: dict[str, float | int | None] = {}
    if "overheadPct" in row:
        interval = row["overheadCi95Pct"]
        figures |= {"pct": printed_pct(row)}
        figures |= {} if interval is None else {"low": interval[0], "high": interval[1]}
        ratios, sampling = log_ratios(row), sampling_of(row)
        figures["mean"] = mean_of(ratios, sampling)
        if len(ratios) >= MIN_FOR_INTERVAL:
            found = mean_of_rounds(ratios, sampling)
            figures |= {"variance": found.error**2, "freedom": found.freedom}
    return SiteRow(
        row_id=row["rowId"],
        name=row_title(row),
        gpu=row["gpuModel"] or row.get("namedGpuModel") or "no GPU",
        workload=row["workload"],
        provider=row["provider"] or "none",
        order=row.get("order", ""),
        word=shown.word,
        css=shown.css,
        dry_run=row["dryRun"],
        failure="" if failure is None else failure.line,
        **figures,  # type: ignore[arg-type]  # the names above are those of the figures
    )
