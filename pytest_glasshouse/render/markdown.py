"""A report as Markdown, in the published shape. Shows what the report says and adds nothing.

A figure is never shown without its interval or the words `single sample`, and a dry run is called one in every line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.analysis.row_limits import limit_of
from pytest_glasshouse.analysis.wording import figure_with_interval
from pytest_glasshouse.render import tables
from pytest_glasshouse.report.attempts import shown, titled
from pytest_glasshouse.wire.printable import markdown_cell, visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


#: A reason of a row that names every finding that did not hold is long, and is shown.
_CELL = 4000


def markdown(document: Mapping[str, Any], *, faults: int = 0) -> str:
    """The whole page: rows, excluded results, tamper cases, cleanup, claims. `faults` is how many `check` found in it."""
    return "\n".join(map(visible, _lines(document, faults))) + "\n"


def _lines(document: Mapping[str, Any], faults: int) -> Iterator[str]:
    counts = document["summary"]
    yield f"# Glasshouse report {_cell(document['runId'])}"
    yield ""
    if faults:
        yield f"**FAULTY: {faults} fault(s). What follows does not follow from the report's own data; see `glasshouse check`.**"
        yield ""
    maker = document["generatedBy"]
    made = f"{document['createdAt']}, {maker['name']} {maker['version']}"
    yield f"{_cell(made)}. Subject: {_subject(document)}."
    yield (
        f"{counts['measured']} of {counts['selected']} rows measured, {counts['measuredOnNamedGpu']} of them on the GPU "
        f"they name, {counts['publishable']} publishable."
    )
    if counts["dryRun"]:
        yield ""
        yield f"**{counts['dryRun']} of {counts['selected']} rows are a dry run: they say nothing about a GPU and gate nothing.**"
    yield from _rows(document["rows"])
    yield from _nulls(document["nullRows"])
    yield from _excluded(document["excludedResults"])
    yield from _tried_again([*document["rows"], *document["nullRows"], *document["excludedResults"]])
    yield from _tamper(document["tamper"])
    yield from _lifecycle(counts)
    yield from _cleanup(document["cleanup"])
    yield from _claims(document["claims"])


def _subject(document: Mapping[str, Any]) -> str:
    subject = document["subject"]
    commit = subject["gitCommit"]
    state = {True: " with changes", False: "", None: ""}[subject["dirty"]]
    return _cell(f"{subject['name']} {subject['version'] or ''}".strip()) + (f" at {_cell(commit[:12])}{state}" if commit else "")


def _rows(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not rows:
        return
    body = []
    for row in rows:
        interval = row["overheadCi95Pct"]
        shown = figure_with_interval(row["overheadPct"], None if interval is None else (interval[0], interval[1]))
        figure, _, bounds = shown.partition(" % ")
        body.append(
            [
                f"{titled(row)} ({_target(row)})",
                row["gpuModel"],
                row["order"],
                f"{row['protectedPerSec']:,.3f}",
                f"{row['rawPerSec']:,.3f}",
                f"{figure} %",
                bounds.strip("()"),
                row["verdict"],
                _status(row),
            ]
        )
    yield from _section("Rows")
    yield from _table(["Row", "Ran on", "Order", "Protected/s", "Raw/s", "Overhead", "Interval", "Verdict", "Status"], body)
    yield ""
    yield from (f"- {_cell(row['name'])}: {_cell(row['interpretation'])}" for row in rows)
    titles = ("How sure", "Fixed and total cost", "Memory and exposure")
    heads = (tables.SURE_HEAD, tables.COST_HEAD, tables.USE_HEAD)
    bodies = (tables.sure(rows), tables.costs(rows), tables.uses(rows))
    for title, head, body in zip(titles, heads, bodies, strict=True):
        if body:
            yield from _section(title)
            yield from _table(head, body)


def _target(row: Mapping[str, Any]) -> str:
    target = f"{row['targetSec']:g} s" if "targetSec" in row else f"{row['stepBudget']} {row.get('unit', 'steps')}"
    return target if row["rounds"] == 1 else f"{target}, {row['rounds']} rounds"


def _status(row: Mapping[str, Any]) -> str:
    words = ["dry run"] if row["dryRun"] else []
    words += ["publishable"] if row["publishable"] else []
    limit = limit_of(row)
    words += [] if limit is None else [f"{limit.verdict.value} of {limit.limit_pct:g} %"]
    words += [f"{row['attestation']}, {row['runtimeState']}"]
    return "; ".join(words)


def _nulls(nulls: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Raw against raw: what the allocation shows where nothing differs."""
    if not nulls:
        return
    body = []
    for row in nulls:
        interval = row["differenceCi90Pct"]
        bounds = "single sample" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f} %"
        inside = f"{'inside' if row['qualifies'] else 'not inside'} +-{row['marginPct']:g} %"
        body.append([titled(row), row["gpuModel"], str(row["rounds"]), f"{row['differencePct']:+.2f} %", bounds, inside])
    yield from _section("Raw against raw")
    yield from _table(["Row", "Ran on", "Rounds", "Difference", "90 % interval", "Margin"], body)


def _excluded(excluded: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not excluded:
        return
    body = [[titled(each), _target(each), each["order"], each["outcome"], each["reason"], each["decision"]] for each in excluded]
    yield from _section("Excluded results")
    yield from _table(["Row", "Target", "Order", "Outcome", "Reason", "Decision"], body)


def _tried_again(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if again := [row for row in rows if shown(row)]:
        yield from _section("Tried more than once, not publishable")
        yield from (f"- {_cell(titled(row))}: {_cell(shown(row))}" for row in again)


def _tamper(tamper: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not tamper:
        return
    body = [
        [
            each["name"],
            each["expectedReason"] or "released",
            each["seenReason"] or ("released" if each["released"] else "not released"),
            "yes" if each["released"] else "no",
            "pass" if each["passed"] else "FAIL",
        ]
        for each in tamper
    ]
    yield from _section("Tamper suite")
    yield from _table(["Case", "Expected", "Seen", "Key released", "Result"], body)


def _lifecycle(counts: Mapping[str, Any]) -> Iterator[str]:
    lifecycle = counts["lifecycle"]
    if lifecycle["attempted"]:
        yield from _section("Lifecycle")
        yield (
            f"Held in {lifecycle['held']} of {lifecycle['attempted']} lifecycles begun: with 95 % confidence at least "
            f"{lifecycle['lower95'] * 100:.1f} % of them."
        )
    if counts["outstandingReleases"]:
        yield ""
        number = len(counts["outstandingReleases"])
        yield f"**Outstanding releases: {number}.** A key went out and its exit evidence did not come back."


def _cleanup(cleanup: Mapping[str, Any]) -> Iterator[str]:
    yield from _section("Cleanup")
    yield f"Cleanup: {_cell(cleanup['status'])}."
    yield from (
        f"- {_cell(each['name'])} ({_cell(each['provider'])}): {_cell(each['status'])}, {_cell(each['reason'])}"
        for each in cleanup["allocations"]
    )


def _claims(claims: Mapping[str, Any]) -> Iterator[str]:
    for title, name in (("What is claimed", "claimed"), ("What is not claimed", "notClaimed"), ("Not shown here", "notShown")):
        if claims[name]:
            yield from _section(title)
            yield from (f"- {_cell(each)}" for each in claims[name])


def _section(title: str) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(_cell(each) for each in line)} |" for line in body)


def _cell(text: str) -> str:
    """Text that stays in its cell and is no markup of its own: a report may come from a stranger."""
    return markdown_cell(text, limit=_CELL)
