"""The reports of a directory as one list of every row's figures over time. Reports with faults are named and left out."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import figure_with_interval, printed_pct, rate_with_interval, verdict_text
from pytest_glasshouse.check.check import check_bytes, load_document
from pytest_glasshouse.check.legacy_results import may_be_report
from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.report.bundle import SUFFIX, parse_report, read_report
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import MeasuredRow, SealedRow
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.fields import Report


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One row in one report."""

    created_at: str
    run_id: str
    commit: str | None
    row: MeasuredRow | SealedRow


@dataclass(frozen=True, kw_only=True)
class RowHistory:
    """Every row, oldest first, and every file that was left out, with the reason."""

    entries: tuple[HistoryEntry, ...]
    left_out: tuple[tuple[str, str], ...]
    """Path below the directory, and why."""
    others: int = 0
    """The number of JSON files that are not reports."""


def history(directory: Path, *, pattern: str = "*", derivation: Derivation | None = None) -> RowHistory:
    """Read every report and bundle below `directory`, outside virtual environments. A run with both counts once."""
    entries: list[HistoryEntry] = []
    left_out: list[tuple[str, str]] = []
    seen: set[str] = set()
    others = 0
    installed = [each.parent for each in directory.rglob("pyvenv.cfg")]
    for path in sorted([*directory.rglob("*.json"), *directory.rglob(f"*{SUFFIX}")]):
        name = path.relative_to(directory)
        if any(part.endswith(".run") for part in name.parts) or any(path.is_relative_to(each) for each in installed):
            continue
        try:
            data = read_report(path)
        except ReportError as error:
            left_out.append((str(name), str(error).removeprefix(f"{path}: ")))
            continue
        try:
            document = load_document(data)
        except ReportError as error:
            if _is_other_json(data):
                others += 1
            else:
                left_out.append((str(name), str(error)[:200]))
            continue
        if document["runId"] in seen:
            continue
        faults = check_bytes(data, derivation=derivation).faults
        if faults:
            left_out.append((str(name), f"{len(faults)} fault(s); first: {faults[0]}"))
            continue
        seen.add(document["runId"])
        rows: list[MeasuredRow | SealedRow] = [*document["rows"], *document.get("sealedRows", ())]
        entries += [_entry(document, row) for row in rows if fnmatchcase(row["name"], pattern)]
    entries.sort(key=lambda each: (each.created_at, each.run_id))
    return RowHistory(entries=tuple(entries), left_out=tuple(left_out), others=others)


def _is_other_json(data: bytes) -> bool:
    """Whether this is valid JSON of another kind. A file that is cut off or not JSON may have been a report."""
    try:
        document = parse_report(data)
    except IntegrityError:
        return False
    return not may_be_report(document)


def _entry(document: Report, row: MeasuredRow | SealedRow) -> HistoryEntry:
    return HistoryEntry(
        created_at=document["createdAt"], run_id=document["runId"], commit=document["subject"]["gitCommit"], row=row
    )


def _shown(row: MeasuredRow | SealedRow) -> list[str]:
    if "protectedRounds" in row:
        return [rate_with_interval(row["protectedPerSec"], row["protectedPerSecCi95"], row["unit"]), "sealed, no raw leg"]
    interval = row["overheadCi95Pct"]
    return [figure_with_interval(printed_pct(row), None if interval is None else (interval[0], interval[1])), verdict_text(row)]


def lines(found: RowHistory) -> Iterator[str]:
    """One block per row and machine, one line per report."""
    groups: dict[tuple[str, str], list[HistoryEntry]] = {}
    for entry in found.entries:
        groups.setdefault((entry.row["rowId"], entry.row["gpuModel"]), []).append(entry)
    for (_, gpu), entries in groups.items():
        yield f"{printable(entries[0].row['name'])} on {printable(gpu)}"
        for entry in entries:
            words = [*_shown(entry.row), *(["dry run"] if entry.row["dryRun"] else [])]
            which = f"{printable(entry.created_at)}  {printable(entry.commit or 'no commit')[:12]:12}"
            yield f"  {which}  {'; '.join(map(printable, words))}  ({printable(entry.run_id)})"
    yield from (f"left out: {printable(name)}: {printable(why)}" for name, why in found.left_out)
    if found.others:
        yield f"passed over: {found.others} JSON file(s) that are no report"
    if not found.entries:
        yield "no measured row was found"
