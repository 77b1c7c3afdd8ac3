"""A comparison of two reports as text and as Markdown: what failed first, then one table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import printed_pct, rate_with_interval, signed
from pytest_glasshouse.check.compare import judged_difference
from pytest_glasshouse.render import tables
from pytest_glasshouse.render.markdown import markdown_table
from pytest_glasshouse.wire.output import RedLine
from pytest_glasshouse.wire.printable import counted, markdown_cell, printable
from pytest_glasshouse.wire.text_table import Column, clipped, text_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow
    from pytest_glasshouse.check.compare import Compared, ComparedRow

_COLUMNS = (
    Column(head="row", importance=9),
    Column(head="ran on", importance=1),
    Column(head="A, %", importance=5, number=True),
    Column(head="95 % of A", importance=2, number=True),
    Column(head="B, %", importance=6, number=True),
    Column(head="95 % of B", importance=3, number=True),
    Column(head="B - A, points", importance=9, number=True),
    Column(head="95 % interval", importance=8, number=True),
    Column(head="that is", importance=7),
)
_SAMPLE = "single sample"


def lines(
    compared: Compared, *, names: Sequence[str], width: int | None = None, limit_points: float | None = None
) -> Iterator[str]:
    """The comparison as text; no line of the table is longer than `width`. `names` are those of A and B."""
    for label, failed in (("A", compared.failed_before), ("B", compared.failed_after)):
        yield from (RedLine(clipped(f"failed in {label}: {printable(each.line, limit=2000)}", width)) for each in failed)
    for label, name in zip("AB", names, strict=True):
        yield clipped(f"{label}: {printable(name)}", width)
    body = [_cells(pair, limit_points) for pair in compared.pairs]
    over = {place for place, cells in enumerate(body) if "over the limit" in cells[-1]}
    if body:
        yield from text_table(_COLUMNS, body, width=width, red=over)
    for pair in compared.pairs:
        if pair.unlike:
            yield f"UNLIKE MACHINES: {printable(pair.name)}: {printable(pair.unlike)}"
    yield from _without_overhead(compared)
    if not compared.pairs and not compared.sealed:
        yield "no row was measured in both reports"


def _without_overhead(compared: Compared) -> Iterator[str]:
    """Rows whose base is sealed, rows that are not the same one in both, and rows of one report."""
    for one, other in compared.sealed:
        yield f"{printable(one['name'])} (base sealed: no overhead, so rates are all that can be put side by side)"
        for label, each in (("A", one), ("B", other)):
            rate = rate_with_interval(each["protectedPerSec"], each["protectedPerSecCi95"], each["unit"])
            rounds = counted(len(each["protectedRounds"]), "round")
            yield f"  {label}  {rate} on {printable(each['gpuModel'])}; {rounds}"
    yield from (f"not the same row in both: {printable(each.name)}: {printable(each.what)}" for each in compared.changed)
    for label, only in (("A", compared.only_before), ("B", compared.only_after)):
        if only:
            yield f"only {label} measured: {', '.join(map(printable, only))}"


def markdown(compared: Compared, *, names: Sequence[str], limit_points: float | None = None) -> str:
    """The comparison as Markdown, for a job summary or a comment on a pull request."""
    text = ["### Protection overhead: B against A", ""]
    failed = [("A", each) for each in compared.failed_before] + [("B", each) for each in compared.failed_after]
    if failed:
        text += [
            "> [!CAUTION]",
            *(f"> - failed in {label}: {markdown_cell(each.line, limit=2000)}" for label, each in failed),
            "",
        ]
    text += [f"A: {markdown_cell(names[0])}, B: {markdown_cell(names[1])}", ""]
    body = [_cells(pair, limit_points) for pair in compared.pairs]
    text += markdown_table([each.head for each in _COLUMNS], body) if body else ["No row was measured in both reports."]
    text += ["", *(f"- not the same row in both: {markdown_cell(f'{each.name}: {each.what}')}" for each in compared.changed)]
    for label, only in (("A", compared.only_before), ("B", compared.only_after)):
        text += [f"- only {label} measured: {markdown_cell(', '.join(only), limit=2000)}"] if only else []
    return "\n".join(text).rstrip() + "\n"


def _cells(pair: ComparedRow, limit_points: float | None) -> list[str]:
    found = pair.difference
    return [
        pair.name,
        "unlike machines" if pair.unlike else pair.before["gpuModel"],
        signed(printed_pct(pair.before)),
        _interval(pair.before),
        signed(printed_pct(pair.after)),
        _interval(pair.after),
        signed(found.points),
        _SAMPLE if found.ci95 is None else f"{signed(found.ci95.low)} to {signed(found.ci95.high)}",
        _said(pair, limit_points),
    ]


def _interval(row: MeasuredRow) -> str:
    return tables.bounds(row["overheadCi95Pct"])


def _said(pair: ComparedRow, limit_points: float | None) -> str:
    found = pair.difference
    if limit_points is not None:
        return f"{judged_difference(found, limit_points=limit_points).value} of {limit_points:g}"
    if found.ci95 is None:
        return "nothing can be said"
    return "0 is outside" if found.ci95.low > 0 or found.ci95.high < 0 else "no difference shown"
