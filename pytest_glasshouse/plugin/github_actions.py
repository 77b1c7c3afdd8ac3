"""A run on GitHub Actions: annotations for what failed, and the report's tables as the job's summary.

Only the process that writes the report speaks, so that rows on several workers are told once. Failures in set-up and
clean-up are told too; they are the ones a plain list of failed tests leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError, ReportError
from pytest_glasshouse.render.github_annotations import SHOWN, annotation
from pytest_glasshouse.wire.printable import markdown_cell, printable
from pytest_glasshouse.wire.whole_file import is_passed_through

if TYPE_CHECKING:
    from pytest_glasshouse.run.run import Run

#: GitHub refuses a step's summary above a mebibyte; the rest of a longer one is in the report.
MOST_SUMMARY = 500_000


def annotated(records: Sequence[Mapping[str, Any]], *, cleanup: str, trouble: Sequence[str]) -> Iterator[str]:
    """Workflow commands: cleanup first, since it may cost money; then what kept the report back; then rows."""
    if cleanup:
        yield annotation("error", "glasshouse: cleanup is not proven", cleanup)
    yield from (annotation("error", "glasshouse", told) for told in trouble)
    missed = [each["record"] for each in records if "outcome" in each["record"]]
    for row in missed[:SHOWN]:
        reason = printable(row["reason"], limit=1000)
        yield annotation("error", f"{row['name']}: {row['outcome']}", f"{reason} ({row['decision']})")
    if len(missed) > SHOWN:
        yield annotation("error", "glasshouse", f"{len(missed) - SHOWN} more rows were not measured; see the job summary")
    dry = sum(each["record"]["dryRun"] for each in records if each["list"] == "rows")
    if dry:
        yield annotation("notice", "glasshouse", f"{dry} of {len(records)} rows are a dry run; not a gate")


def summarise(run: Run, path: Path) -> None:
    """Add the report's tables to the job's summary. A file that cannot be written is no reason to fail a run."""
    from pytest_glasshouse.render.markdown import markdown
    from pytest_glasshouse.report.bundle import parse_report, read_report

    text = f"glasshouse published no report: {markdown_cell('; '.join(run.trouble) or 'nothing was begun', limit=4000)}\n"
    if run.published and is_passed_through(run.published[0]):
        text = "glasshouse wrote its report to a pipe or a device: its tables are where that leads\n"
    elif run.published:
        try:
            text = markdown(parse_report(read_report(run.published[0])))
        except (ReportError, IntegrityError) as error:
            text = f"glasshouse published a report that cannot be read again: {markdown_cell(error)}\n"
    if len(text.encode()) > MOST_SUMMARY:
        text = text.encode()[:MOST_SUMMARY].decode(errors="ignore") + "\n\n(cut; the report has the rest)\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        return


def properties(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What JUnit XML says of a row: scalars as text, and no figure without its interval beside it."""
    told = record["record"]
    found: dict[str, Any] = {
        "rowId": told["rowId"],
        "outcome": told.get("outcome", "measured"),
        "verdict": told.get("verdict"),
        "dryRun": told["dryRun"],
        "publishable": told.get("publishable"),
        "gpuModel": told["gpuModel"],
    }
    if record["list"] == "rows":
        interval = told["overheadCi95Pct"]
        shown = "single sample" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
        found |= {"overheadPct": f"{told['overheadPct']:.4f}", "overheadCi95Pct": shown}
    return [(f"glasshouse.{name}", printable(value)) for name, value in found.items() if value is not None]
