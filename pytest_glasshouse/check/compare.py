"""Two reports compared row by row: the rows that both measured, their overheads and the difference.

Rows with equal ids are the same row. A difference is not called a regression: only someone who knows what changed between the
two can judge that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import log_ratios
from pytest_glasshouse.analysis.sampling import sampling_of
from pytest_glasshouse.analysis.wording import figure_with_interval, printed_pct, rate_with_interval, signed, verdict_text
from pytest_glasshouse.overhead.difference import Difference, difference
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow, SealedRow
    from pytest_glasshouse.report.fields import Report

#: Fields that must be equal for a difference to be about protection.
_MACHINE = {
    "gpuModel": "GPU",
    "provider": "provider",
    "dryRun": "dry run",
    "standIn": "stand-in model",
    "strictMemory": "strict memory",
}


@dataclass(frozen=True, kw_only=True)
class ComparedRow:
    """One row in both reports. `unlike` lists what differs between the machines; empty for nothing."""

    row_id: str
    name: str
    before: MeasuredRow
    after: MeasuredRow
    difference: Difference
    unlike: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The rows of both reports, and those that only one of them measured. `sealed` are rows of both without a raw leg."""

    pairs: tuple[ComparedRow, ...]
    sealed: tuple[tuple[SealedRow, SealedRow], ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def compare(before: Report, after: Report) -> Compared:
    """Pair the measured rows of two reports by their ids."""
    first, second = ({row["rowId"]: row for row in document["rows"]} for document in (before, after))
    first_sealed, second_sealed = ({row["rowId"]: row for row in each.get("sealedRows", ())} for each in (before, after))
    return Compared(
        sealed=tuple((row, second_sealed[row_id]) for row_id, row in first_sealed.items() if row_id in second_sealed),
        pairs=tuple(_pair(row, second[row_id]) for row_id, row in first.items() if row_id in second),
        only_before=_only(first, second) + _only(first_sealed, second_sealed),
        only_after=_only(second, first) + _only(second_sealed, first_sealed),
    )


def _only(rows: Mapping[str, MeasuredRow | SealedRow], others: Collection[str]) -> tuple[str, ...]:
    return tuple(row["name"] for row_id, row in rows.items() if row_id not in others)


def _pair(before: MeasuredRow, after: MeasuredRow) -> ComparedRow:
    one: Mapping[str, object] = before
    other: Mapping[str, object] = after
    differing = [
        f"{word} {one.get(field)!s} and {other.get(field)!s}"
        for field, word in _MACHINE.items()
        if one.get(field) != other.get(field)
    ]
    return ComparedRow(
        row_id=before["rowId"],
        name=before["name"],
        before=before,
        after=after,
        difference=difference(
            log_ratios(before), log_ratios(after), sampled_before=sampling_of(before), sampled_after=sampling_of(after)
        ),
        unlike=", ".join(differing),
    )


def lines(compared: Compared, *, names: Sequence[str]) -> Iterator[str]:
    """The comparison as text, one block per row."""
    for pair in compared.pairs:
        where = f" (UNLIKE MACHINES: {printable(pair.unlike)})" if pair.unlike else f" on {printable(pair.before['gpuModel'])}"
        yield printable(pair.name) + where
        for label, name, row in (("A", names[0], pair.before), ("B", names[1], pair.after)):
            interval = row["overheadCi95Pct"]
            shown = figure_with_interval(printed_pct(row), None if interval is None else (interval[0], interval[1]))
            rounds = f"{len(row['roundFigures'])} round(s)"
            yield f"  {label}  {shown}; {printable(verdict_text(row))}; {rounds}, {printable(name)}"
        yield f"  B - A  {_shown(pair.difference)}"
    for one, other in compared.sealed:
        yield f"{printable(one['name'])} (base sealed: no overhead, so rates are all that can be put side by side)"
        for label, name, each in (("A", names[0], one), ("B", names[1], other)):
            rate = rate_with_interval(each["protectedPerSec"], each["protectedPerSecCi95"], each["unit"])
            yield f"  {label}  {rate} on {printable(each['gpuModel'])}; {len(each['protectedRounds'])} rounds, {printable(name)}"
    for label, only in (("A", compared.only_before), ("B", compared.only_after)):
        if only:
            yield f"only {label} measured: {', '.join(map(printable, only))}"
    if not compared.pairs and not compared.sealed:
        yield "no row was measured in both reports"


def _shown(found: Difference) -> str:
    if found.ci95 is None:
        return f"{signed(found.points)} points (single sample: no interval, so nothing can be said)"
    interval = f"95 % interval {signed(found.ci95.low)} to {signed(found.ci95.high)}"
    apart = found.ci95.low > 0 or found.ci95.high < 0
    return f"{signed(found.points)} points ({interval}): {'0 is outside' if apart else '0 is inside: no difference shown'}"
