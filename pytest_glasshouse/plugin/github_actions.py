"""A run on GitHub Actions: annotations for what failed, and the report's tables as the job's summary.

Only the process that writes the report writes them, so that rows on several workers appear once. Failures in set-up and
clean-up are annotated too; a plain list of failed tests leaves those out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.render.github_annotations import SHOWN, annotation
from pytest_glasshouse.wire.printable import markdown_cell, printable
from pytest_glasshouse.wire.whole_file import is_passed_through

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.run.run import Run

#: GitHub refuses a step's summary above a mebibyte; the rest of a longer one is in the report.
MOST_SUMMARY = 500_000


def workflow_commands(records: Sequence[Record], *, cleanup: str, problems: Sequence[str]) -> Iterator[str]:
    """Workflow commands: cleanup first, since it may cost money; then what kept the report back; then rows."""
    if cleanup:
        yield annotation("error", "glasshouse: cleanup is not proven", cleanup)
    yield from (annotation("error", "glasshouse", problem) for problem in problems)
    missed = [each["record"] for each in records if each["list"] == "excludedResults"]
    for row in missed[:SHOWN]:
        reason = printable(row["reason"], limit=1000)
        yield annotation("error", f"{row['name']}: {row['outcome']}", f"{reason} ({row['decision']})")
    if len(missed) > SHOWN:
        yield annotation("error", "glasshouse", f"{len(missed) - SHOWN} more rows were not measured; see the job summary")
    dry = sum(each["record"]["dryRun"] for each in records if each["list"] in ("rows", "sealedRows"))
    if dry:
        yield annotation("notice", "glasshouse", f"{dry} of {len(records)} rows are a dry run; not a gate")


def write_summary(run: Run, path: Path) -> None:
    """Add the report's tables to the job's summary. A file that cannot be written is no reason to fail a run."""
    from pytest_glasshouse.render.markdown import markdown
    from pytest_glasshouse.report.bundle import parse_report, read_report

    text = f"glasshouse published no report: {markdown_cell('; '.join(run.problems) or 'nothing was begun', limit=4000)}\n"
    if run.report.published and is_passed_through(run.report.published[0]):
        text = "glasshouse wrote its report to a pipe or a device: its tables are in what was written there\n"
    elif run.report.published:
        try:
            text = markdown(parse_report(read_report(run.report.published[0])))
        except (ReportError, IntegrityError) as error:
            text = f"glasshouse published a report that cannot be read again: {markdown_cell(error)}\n"
    if len(text.encode()) > MOST_SUMMARY:
        text = text.encode()[:MOST_SUMMARY].decode(errors="ignore") + "\n\n(cut; the report has the rest)\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return


def junit_properties(record: Record) -> list[tuple[str, str]]:
    """A row's properties in JUnit XML: scalars as text, and no figure without its interval beside it."""
    row = record["record"]
    found: dict[str, object] = {
        "rowId": row["rowId"],
        "outcome": row.get("outcome", "measured"),
        "verdict": row.get("verdict"),
        "dryRun": row["dryRun"],
        "publishable": row.get("publishable"),
        "gpuModel": row["gpuModel"],
    }
    if record["list"] == "rows":
        row = record["record"]
        interval = row["overheadCi95Pct"]
        shown = "single sample" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
        found |= {
            "roundsMeanPct": f"{row['roundsMeanPct']:.4f}",
            "overheadPct": f"{row['overheadPct']:.4f}",
            "overheadCi95Pct": shown,
        }
    return [(f"glasshouse.{name}", printable(value)) for name, value in found.items() if value is not None]
