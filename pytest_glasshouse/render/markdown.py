"""A report as Markdown. Adds nothing to what the report holds.

A figure is never shown without its interval or the words `single sample`, and a dry run is marked in every line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import implausible, limit_of
from pytest_glasshouse.analysis.wording import verdict_text
from pytest_glasshouse.render import tables
from pytest_glasshouse.report.attempts import attempts_line, row_title
from pytest_glasshouse.report.failures import failures, rows_of
from pytest_glasshouse.wire.printable import counted, markdown_cell, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import ExcludedRow, MeasuredRow, NullRow, RowRecord, SealedRow
    from pytest_glasshouse.report.fields import Claims, CleanupSection, Report, Summary
    from pytest_glasshouse.tamper.result import TamperRecord


#: Longest text of a cell: a reason may name every finding that did not hold.
_CELL = 4000


def markdown(document: Report, *, faults: int = 0) -> str:
    """The whole report: rows, excluded results, tamper cases, cleanup, claims. `faults` is how many `check` found in it."""
    return "\n".join(map(visible, _lines(document, faults))) + "\n"


def _lines(document: Report, faults: int) -> Iterator[str]:
    summary = document["summary"]
    yield f"# Glasshouse report {_cell(document['runId'])}"
    yield ""
    if faults:
        found = counted(faults, "fault")
        yield f"**FAULTY: {found}. What follows does not follow from the report's own data; see `glasshouse check`.**"
        yield ""
    yield from _failed(document)
    maker = document["generatedBy"]
    made = f"{document['createdAt']}, {maker['name']} {maker['version']}"
    yield f"{_cell(made)}. Subject: {_subject(document)}."
    yield tables.measured_sentence(summary)
    if dry_run := tables.dry_run_sentence(summary):
        yield ""
        yield f"**{dry_run}**"
    yield from _excluded(document["excludedResults"])
    yield from _rows(document["rows"], document["nullRows"])
    yield from _sealed(document.get("sealedRows", ()))
    yield from _nulls(document["nullRows"])
    yield from _tried_again(
        [*document["rows"], *document.get("sealedRows", ()), *document["nullRows"], *document["excludedResults"]]
    )
    yield from _tamper(document["tamper"])
    yield from _lifecycle(summary)
    yield from _cleanup(document["cleanup"])
    yield from _claims(document["claims"])


def _failed(document: Report) -> Iterator[str]:
    """What failed, in an alert that GitHub shows in red."""
    failed = failures(rows_of(document))
    if failed:
        yield "> [!CAUTION]"
        yield f"> **{counted(len(failed), 'row')} failed.**"
        yield ">"
        yield from (f"> - {_cell(each.line)}" for each in failed)
        yield ""


def _subject(document: Report) -> str:
    subject = document["subject"]
    commit = subject["gitCommit"]
    state = {True: " with changes", False: "", None: ""}[subject["dirty"]]
    return _cell(f"{subject['name']} {subject['version'] or ''}".strip()) + (f" at {_cell(commit[:12])}{state}" if commit else "")


def _rows(rows: Sequence[MeasuredRow], nulls: Sequence[NullRow]) -> Iterator[str]:
    if not rows:
        return
    body = []
    for row in rows:
        figure, _, interval = tables.overhead_text(row).partition(" % ")
        body.append(
            [
                f"{row_title(row)} ({_target(row)})",
                tables.ran_on(row),
                row["order"],
                f"{row['protectedPerSec']:,.3f}",
                f"{row['rawPerSec']:,.3f}",
                f"{figure} %",
                interval.strip("()"),
                verdict_text(row),
                _status(row, nulls),
            ]
        )
    yield from _section("Rows")
    yield from markdown_table(
        ["Row", "Ran on", "Order", "Protected/s", "Raw/s", "Overhead", "Interval", "Verdict", "Status"], body
    )
    yield ""
    yield from (f"- {_cell(row['name'])}: {_cell(row['interpretation'])}" for row in rows)
    for title, head, body in (
        ("Estimates", tables.ESTIMATES_HEAD, tables.estimates_table(rows)),
        ("Fixed and total cost", tables.COSTS_HEAD, tables.costs_table(rows)),
        ("Memory and exposure", tables.MEMORY_HEAD, tables.memory_table(rows)),
    ):
        if body:
            yield from _section(title)
            yield from markdown_table(head, body)


def _target(row: MeasuredRow | ExcludedRow) -> str:
    target = tables.target(row)
    return target if row["rounds"] == 1 else f"{target}, {row['rounds']} rounds"


def _status(row: MeasuredRow, nulls: Sequence[NullRow]) -> str:
    words = ["dry run"] if row["dryRun"] else []
    words += ["publishable"] if row["publishable"] else []
    limit = limit_of(row, null_rows=nulls)
    words += [f"implausible negative: {reason}"] if (reason := implausible(row, nulls)) else []
    words += [] if limit is None else [f"{limit.verdict.value} of {limit.limit_pct:g} %"]
    words += [f"{row['attestation']}, {row['runtimeState']}"]
    return "; ".join(words)


def _sealed(rows: Sequence[SealedRow]) -> Iterator[str]:
    if rows:
        yield from _section("Sealed rows")
        yield tables.SEALED_NOTE
        yield ""
        yield from markdown_table(tables.SEALED_HEAD, tables.sealed_table(rows))


def _nulls(nulls: Sequence[NullRow]) -> Iterator[str]:
    """Null rows: what two raw legs on one allocation differ by."""
    if not nulls:
        return
    body = []
    for row in nulls:
        interval = tables.bounds(row["differenceCi90Pct"], unit=" %")
        inside = f"{'inside' if row['qualifies'] else 'not inside'} ±{row['marginPct']:g} %"
        body.append([row_title(row), tables.ran_on(row), str(row["rounds"]), f"{row['differencePct']:+.2f} %", interval, inside])
    yield from _section("Raw against raw")
    yield from markdown_table(["Row", "Ran on", "Rounds", "Difference", "90 % interval", "Margin"], body)


def _excluded(excluded: Sequence[ExcludedRow]) -> Iterator[str]:
    if not excluded:
        return
    body = [
        [row_title(each), _target(each), each["order"], each["outcome"], each["reason"], each["decision"]] for each in excluded
    ]
    yield from _section("Excluded results")
    yield from markdown_table(["Row", "Target", "Order", "Outcome", "Reason", "Decision"], body)


def _tried_again(rows: Sequence[RowRecord]) -> Iterator[str]:
    if again := [row for row in rows if attempts_line(row)]:
        yield from _section("Tried more than once, not publishable")
        yield from (f"- {_cell(row_title(row))}: {_cell(attempts_line(row))}" for row in again)


def _tamper(tamper: Sequence[TamperRecord]) -> Iterator[str]:
    if not tamper:
        return
    body = [[*tables.tamper_row(each), tables.tamper_result(each)] for each in tamper]
    yield from _section("Tamper suite")
    yield from markdown_table(["Case", "Expected", "Seen", "Key released", "Result"], body)


def _lifecycle(summary: Summary) -> Iterator[str]:
    if held := tables.lifecycle_sentence(summary):
        yield from _section("Lifecycle")
        yield held
    if outstanding := len(summary["outstandingReleases"]):
        yield ""
        yield f"**Outstanding releases: {outstanding}.** A key was released and the leg's exit evidence did not arrive."


def _cleanup(cleanup: CleanupSection) -> Iterator[str]:
    yield from _section("Cleanup")
    yield f"Cleanup: {_cell(cleanup['status'])}."
    yield from (
        f"- {_cell(each['name'])} ({_cell(each['provider'])}): {_cell(each['status'])}, {_cell(each['reason'])}"
        for each in cleanup["allocations"]
    )


def _claims(claims: Claims) -> Iterator[str]:
    for title, sentences in tables.claim_lists(claims):
        yield from _section(title)
        yield from (f"- {_cell(each)}" for each in sentences)


def _section(title: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    """The lines of a table, every cell escaped."""
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(_cell(each) for each in line)} |" for line in body)


def _cell(text: str) -> str:
    """Text that stays in its cell, its own markup escaped: the report is untrusted."""
    return markdown_cell(text, limit=_CELL)
