"""A report in formats that other people's dashboards read: CSV of rounds and of segments, CTRF, and a benchmark list.

They carry figures, and none of the evidence: what is checked is the report.
"""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import figure_with_interval, printed_pct, verdict_text
from pytest_glasshouse.report.attempts import row_title
from pytest_glasshouse.report.failures import failure_of, rows_of
from pytest_glasshouse.wire.printable import json_text, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.report.failures import RowFailure
    from pytest_glasshouse.report.fields import Report

_ROW = ("runId", "createdAt", "gitCommit", "row", "rowId", "gpuModel", "workload", "order", "unit", "dryRun", "publishable")
_ROUND = ("round", "protectedPerSec", "rawPerSec", "protectedElapsedSec", "rawElapsedSec", "overheadPct")
_SEGMENT = ("round", "pair", "position", "leg", "units", "elapsedSec")
#: What a spreadsheet takes for the beginning of a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def rounds_csv(document: Report) -> str:
    """One line for each round of each measured row (RFC 4180)."""
    return _csv(document, _ROUND, "roundFigures")


def segments_csv(document: Report) -> str:
    """One line for each timed segment of each interleaved row (RFC 4180)."""
    return _csv(document, _SEGMENT, "segments")


def ctrf(document: Report) -> str:
    """The rows as tests in the Common Test Report Format (ctrf.io, 0.0.0): `failed` for what failed, whatever kept it."""
    tests = [_test(row, failure_of(row, document["nullRows"])) for row in rows_of(document)]
    statuses = [each["status"] for each in tests]
    made_ms = int(datetime.fromisoformat(document["createdAt"]).astimezone(UTC).timestamp() * 1000)
    summary = {
        "tests": len(tests),
        "passed": statuses.count("passed"),
        "failed": statuses.count("failed"),
        "pending": 0,
        "skipped": 0,
        "other": 0,
        # A report says when it was made, and not when its first row began.
        "start": made_ms,
        "stop": made_ms,
    }
    tool = {"name": document["generatedBy"]["name"], "version": document["generatedBy"]["version"]}
    return (
        json_text({"reportFormat": "CTRF", "specVersion": "0.0.0", "results": {"tool": tool, "summary": summary, "tests": tests}})
        + "\n"
    )


def benchmark_list(document: Report) -> str:
    """Each row's overhead as github-action-benchmark reads it under `customSmallerIsBetter`; `range` is its 95 % interval."""
    return json_text([
        {
            "name": row_title(row),
            "unit": "% overhead",
            "value": printed_pct(row),
            "range": "single sample" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
            "extra": f"{row['gpuModel']}; {row['order']}; {verdict_text(row)}{'; dry run' if row['dryRun'] else ''}",
        }
        for row in document["rows"]
        for interval in (row["overheadCi95Pct"],)
    ]) + "\n"  # fmt: skip


def _test(row: RowRecord, failure: RowFailure | None) -> dict[str, object]:
    elapsed = [value for name, value in _items(row) if name in {"protectedElapsedSec", "rawElapsedSec"}]
    test: dict[str, object] = {
        "name": row_title(row),
        "status": "passed" if failure is None else "failed",
        "duration": int(1000 * sum(value for value in elapsed if isinstance(value, int | float))),
    }
    if failure is not None:
        test["message"] = printable(failure.line, limit=2000)
    elif "overheadPct" in row:
        interval = row["overheadCi95Pct"]
        test["message"] = figure_with_interval(printed_pct(row), None if interval is None else (interval[0], interval[1]))
    return test


def _items(row: Mapping[str, object]) -> Iterable[tuple[str, object]]:
    return row.items()


def _csv(document: Report, columns: Sequence[str], listed: str) -> str:
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow([*_ROW, *columns])
    for row in document["rows"]:
        whole: Mapping[str, object] = {
            **row,
            "runId": document["runId"],
            "createdAt": document["createdAt"],
            "gitCommit": document["subject"]["gitCommit"],
            "row": row_title(row),
        }
        figures = whole.get(listed)
        for each in figures if isinstance(figures, list) else ():
            writer.writerow([*(_cell(whole.get(name)) for name in _ROW), *(_cell(each.get(name)) for name in columns)])
    return written.getvalue()


def _cell(value: object) -> object:
    """A value as a spreadsheet may open it: foreign text never begins a formula."""
    if not isinstance(value, str):
        return "" if value is None else value
    shown = printable(value, limit=1000)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
