"""The summary at the end of a run: what failed, in red and before anything else; then tables of what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.output import RedLine
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.text_table import Column, text_table

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import FindingRecord, MeasuredRow, NullRow, Record, RowRecord, SealedRow
    from pytest_glasshouse.tamper.result import TamperRecord

_NO_FIGURE = "-"
#: A reason may name every finding that did not hold.
_REASON = 4000
_MEASURED = (
    Column(head="row", importance=9),
    Column(head="trained", importance=6),
    Column(head="order", importance=3),
    Column(head="protected", importance=2, number=True),
    Column(head="raw", importance=2, number=True),
    Column(head="overhead", importance=9, number=True),
    Column(head="95 % interval", importance=7, number=True),
    Column(head="verdict", importance=8),
    Column(head="findings", importance=4),
)
_SEALED = (
    Column(head="base sealed, no raw leg", importance=9),
    Column(head="rounds", importance=1, number=True),
    Column(head="protected rate", importance=3),
    Column(head="findings", importance=2),
)
_NULL = (
    Column(head="raw against raw", importance=9),
    Column(head="rounds", importance=1, number=True),
    Column(head="difference", importance=4, number=True),
    Column(head="90 % interval", importance=5, number=True),
    Column(head="inside its margin", importance=3),
    Column(head="findings", importance=2),
)


def summary(records: Sequence[Record], tamper: Sequence[TamperRecord], *, width: int | None = None) -> Iterator[str]:
    """The lines of a run's summary; no line of a table is longer than `width`."""
    from pytest_glasshouse.report.attempts import attempts_line, row_title
    from pytest_glasshouse.report.failures import failure_of

    measured = [each["record"] for each in records if each["list"] == "rows"]
    sealed = [each["record"] for each in records if each["list"] == "sealedRows"]
    nulls = [each["record"] for each in records if each["list"] == "nullRows"]
    every: list[RowRecord] = [each["record"] for each in records]
    yield from _failed(every)
    if failed_cases := [case["name"] for case in tamper if not case["passed"]]:
        yield RedLine(f"tamper cases that were not refused as expected: {', '.join(map(printable, failed_cases))}")
    if measured:
        yield from text_table(_MEASURED, [(row_title(row), *_measured(row)) for row in measured], width=width)
        if models := sorted({str(row["modelId"]) for row in measured if row["standIn"]}):
            yield f"stand-in: a small model of the same kind was trained in place of {', '.join(map(printable, models))}"
    if sealed:
        yield ""
        cells = [(row_title(row), str(row["rounds"]), _rate(row), findings(row["findings"])) for row in sealed]
        yield from text_table(_SEALED, cells, width=width)
    if nulls:
        yield ""
        yield from text_table(_NULL, [(row_title(row), *_null(row)) for row in nulls], width=width)
    yield from shared_gpus([*measured, *sealed, *nulls])
    if several := sorted((row for row in every if attempts_line(row)), key=lambda row: failure_of(row) is None):
        yield ""
        yield "several attempts, not publishable:"
        yield from (f"  {printable(row_title(row))}: {printable(attempts_line(row), limit=_REASON)}" for row in several)
    if tamper:
        refused = [case for case in tamper if case["expectedReason"] is not None]
        control = [case for case in tamper if case["expectedReason"] is None]
        yield ""
        yield (
            f"tamper: {sum(case['passed'] for case in refused)} of {len(refused)} refused as expected, "
            f"{sum(case['passed'] for case in control)} of {len(control)} controls released"
        )


def _failed(rows: Sequence[RowRecord]) -> Iterator[str]:
    from pytest_glasshouse.report.failures import failures

    found = failures(rows)
    if not found:
        return
    yield RedLine("failed:")
    orders = {row["rowId"]: row.get("order", "") for row in rows}
    for each in found:
        yield RedLine(f"  {printable(each.name)} ({orders[each.row_id]}): {each.outcome}")
        yield f"      reason    {printable(each.cause, limit=_REASON)}"
        if each.decision:
            yield f"      decision  {printable(each.decision, limit=_REASON)}"
    yield ""


def shared_gpus(rows: Sequence[MeasuredRow | SealedRow | NullRow]) -> Iterator[str]:
    """A line for each row whose GPU was used by others when its allocation was made."""
    from pytest_glasshouse.report.attempts import row_title

    for row in rows:
        seen = row["observation"].get("allocation")
        if seen is not None and (others := seen.get("otherGpuProcesses")):
            memory = f"{seen.get('otherGpuMemoryMib', 0)} MiB of its memory"
            yield f"{row_title(row)}: {others} processes of others used its GPU when it began, {memory}"


def _measured(row: MeasuredRow) -> tuple[str, ...]:
    from pytest_glasshouse.analysis.wording import printed_pct, verdict_text

    interval = row.get("overheadCi95Pct")
    unit = row["unit"]
    return (
        "stand-in" if row["standIn"] else "",
        row["order"],
        f"{row['protectedPerSec']:.2f} {unit}/s",
        f"{row['rawPerSec']:.2f} {unit}/s",
        f"{printed_pct(row):+.2f} %",
        _NO_FIGURE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
        verdict_text(row),
        findings(row["findings"]),
    )


def _rate(row: SealedRow) -> str:
    from pytest_glasshouse.analysis.wording import rate_with_interval

    return rate_with_interval(row["protectedPerSec"], row["protectedPerSecCi95"], row["unit"])


def _null(row: NullRow) -> tuple[str, ...]:
    interval = row["differenceCi90Pct"]
    return (
        str(row["rounds"]),
        f"{row['differencePct']:+.2f} %",
        _NO_FIGURE if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}",
        "yes" if row["qualifies"] else "no",
        findings(row["findings"]),
    )


def findings(judged: Sequence[FindingRecord]) -> str:
    """How many findings held, and how many of the others were broken or unseen."""
    counts = {finding: sum(each["finding"] == finding for each in judged) for finding in ("held", "broken", "unseen")}
    others = [f"{counts[finding]} {finding}" for finding in ("broken", "unseen") if counts[finding]]
    return ", ".join([f"{counts['held']} of {len(judged)} held", *others])
