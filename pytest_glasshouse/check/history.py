"""The reports of a directory as one list of every row's figures over time. Reports with faults are named and left out."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import printed_pct, rate_with_interval, signed, verdict_text
from pytest_glasshouse.check.check import load_document
from pytest_glasshouse.check.found_reports import report_paths
from pytest_glasshouse.check.legacy_results import may_be_report
from pytest_glasshouse.check.verdict_cache import VerdictCache
from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.report.attempts import row_title
from pytest_glasshouse.report.bundle import parse_report, read_report
from pytest_glasshouse.report.failures import failure_of, rows_of
from pytest_glasshouse.wire.output import RedLine
from pytest_glasshouse.wire.printable import counted, printable
from pytest_glasshouse.wire.text_table import Column, clipped, text_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.failures import RowFailure
    from pytest_glasshouse.report.fields import Report

_COLUMNS = (
    Column(head="  made", importance=9),
    Column(head="commit", importance=2),
    Column(head="overhead, %", importance=9, number=True),
    Column(head="95 % interval", importance=8, number=True),
    Column(head="verdict", importance=6),
    Column(head="", importance=4),
    Column(head="run", importance=1),
)


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One row in one report."""

    created_at: str
    run_id: str
    commit: str | None
    row: RowRecord
    failure: RowFailure | None


@dataclass(frozen=True, kw_only=True)
class RowHistory:
    """Every row, oldest first, and every file that was left out, with the reason."""

    entries: tuple[HistoryEntry, ...]
    left_out: tuple[tuple[str, str], ...]
    """Path below the directory, and why."""
    others: int = 0
    """The number of JSON files that are not reports."""


def history(
    directory: Path, *, pattern: str = "*", derivation: Derivation | None = None, keep_verdicts: bool = False
) -> RowHistory:
    """Read every report and bundle below `directory`, outside virtual environments. A run with both counts once.

    `keep_verdicts`: see `VerdictCache`.
    """
    entries: list[HistoryEntry] = []
    left_out: list[tuple[str, str]] = []
    seen: set[str] = set()
    others = 0
    verdicts = VerdictCache(derivation, keep=keep_verdicts)
    for path in report_paths(directory):
        name = str(path.relative_to(directory))
        try:
            data = read_report(path)
        except ReportError as error:
            left_out.append((name, str(error).removeprefix(f"{path}: ")))
            continue
        try:
            document = load_document(data)
        except ReportError as error:
            if _is_other_json(data):
                others += 1
            else:
                left_out.append((name, str(error)[:200]))
            continue
        if document["runId"] in seen:
            continue
        if faults := verdicts.faults_of(document, data):
            left_out.append((name, faults))
            continue
        seen.add(document["runId"])
        entries += [
            _entry(document, row) for row in rows_of(document) if _is_shown(document, row) and fnmatchcase(row["name"], pattern)
        ]
    verdicts.close()
    entries.sort(key=lambda each: (each.created_at, each.run_id))
    return RowHistory(entries=tuple(entries), left_out=tuple(left_out), others=others)


def _is_shown(document: Report, row: RowRecord) -> bool:
    """A null row is no measurement of protection, and is shown only where it failed."""
    return "differencePct" not in row or failure_of(row, document["nullRows"]) is not None


def _is_other_json(data: bytes) -> bool:
    """Whether this is valid JSON of another kind. A file that is cut off or not JSON may have been a report."""
    try:
        document = parse_report(data)
    except IntegrityError:
        return False
    return not may_be_report(document)


def _entry(document: Report, row: RowRecord) -> HistoryEntry:
    return HistoryEntry(
        created_at=document["createdAt"],
        run_id=document["runId"],
        commit=document["subject"]["gitCommit"],
        row=row,
        failure=failure_of(row, document["nullRows"]),
    )


def lines(found: RowHistory, *, width: int | None = None) -> Iterator[str]:
    """What failed, then a table for each row and machine with one line a report; no line of one is longer than `width`."""
    failed = [each for each in found.entries if each.failure is not None]
    for each in failed:
        assert each.failure is not None  # noqa: S101  (for the type checker)
        text = f"failed: {printable(each.created_at)}  {printable(each.failure.line, limit=2000)}  ({printable(each.run_id)})"
        yield RedLine(clipped(text, width))
    groups: dict[tuple[str, str], list[HistoryEntry]] = {}
    for entry in found.entries:
        groups.setdefault((entry.row["rowId"], _machine(entry.row)), []).append(entry)
    for (_, gpu), entries in groups.items():
        yield clipped(f"{printable(row_title(entries[0].row))} on {printable(gpu)}{_work(entries[0].row)}", width)
        red = {place for place, entry in enumerate(entries) if entry.failure is not None}
        yield from text_table(_COLUMNS, [_cells(entry) for entry in entries], width=width, red=red)
    yield from (f"left out: {printable(name)}: {printable(why)}" for name, why in found.left_out)
    if found.others:
        yield f"passed over: {counted(found.others, 'JSON file')} that {'is' if found.others == 1 else 'are'} no report"
    if not found.entries:
        yield "no measured row was found"


def _machine(row: RowRecord) -> str:
    return row["gpuModel"] or str(row.get("namedGpuModel") or "no GPU")


def _work(row: RowRecord) -> str:
    """What tells rows of one name apart: order, rounds and target."""
    given: Mapping[str, object] = row
    words = [str(given["order"])] if given.get("order") else []
    words.append(counted(row["rounds"], "round"))
    if given.get("targetSec") is not None:
        words.append(f"{given['targetSec']:g} s")
    elif given.get("stepBudget") is not None:
        words.append(f"{given['stepBudget']} steps")
    return f" ({', '.join(words)})"


def _cells(entry: HistoryEntry) -> list[str]:
    row = entry.row
    when = [entry.created_at, (entry.commit or "no commit")[:12]]
    dry = "dry run" if row["dryRun"] else ""
    if entry.failure is not None and "overheadPct" not in row:
        return [*when, "", "", f"FAILED: {entry.failure.outcome}", dry, entry.run_id]
    if "protectedRounds" in row:
        rate = rate_with_interval(row["protectedPerSec"], row["protectedPerSecCi95"], row["unit"])
        return [*when, "", "", f"{rate}; sealed, no raw leg", dry, entry.run_id]
    if "overheadPct" not in row:
        return [*when, "", "", "", dry, entry.run_id]
    interval = row["overheadCi95Pct"]
    shown = "single sample" if interval is None else f"{signed(interval[0])} to {signed(interval[1])}"
    verdict = verdict_text(row) if entry.failure is None else f"FAILED: {entry.failure.outcome}"
    return [*when, signed(printed_pct(row)), shown, verdict, dry, entry.run_id]
