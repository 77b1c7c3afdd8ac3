"""Two reports compared row by row: the rows that both measured, their overheads and the difference, and what failed in either.

Rows with equal ids are the same row; of rows that share a name only, it is said what differs. A difference is not called a
regression: only someone who knows what changed between the two can judge that. A limit in points is judged by the interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import log_ratios
from pytest_glasshouse.analysis.sampling import sampling_of
from pytest_glasshouse.overhead.difference import Difference, difference
from pytest_glasshouse.overhead.verdict import LimitVerdict
from pytest_glasshouse.report.attempts import row_title
from pytest_glasshouse.report.failures import RowFailure, failures, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.analysis.fields import MeasuredRow, RowRecord, SealedRow
    from pytest_glasshouse.report.fields import Report

#: Fields that must be equal for a difference to be about protection.
_MACHINE = {
    "gpuModel": "GPU",
    "provider": "provider",
    "dryRun": "dry run",
    "standIn": "stand-in model",
    "strictMemory": "strict memory",
}

#: What makes a row another one, and what it is called.
_ROW = {
    "namedGpuModel": "GPU", "workload": "workload", "modelId": "model", "order": "order", "rounds": "rounds",
    "targetSec": "seconds per leg", "stepBudget": "steps per leg", "warmupSec": "warm-up", "interleaving": "interleaving",
}  # fmt: skip


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
class ChangedRow:
    """Rows of one name that are not the same row: another order, other rounds. `what` lists what differs, as `word: A, B`."""

    name: str
    what: str


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The rows of both reports, and those that only one of them measured. `sealed` are rows of both without a raw leg."""

    pairs: tuple[ComparedRow, ...]
    sealed: tuple[tuple[SealedRow, SealedRow], ...]
    changed: tuple[ChangedRow, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    failed_before: tuple[RowFailure, ...]
    failed_after: tuple[RowFailure, ...]


def compare(before: Report, after: Report) -> Compared:
    """Pair the rows of two reports: measured ones by their ids, and the rest by their names."""
    first, second = ({row["rowId"]: row for row in document["rows"]} for document in (before, after))
    first_sealed, second_sealed = ({row["rowId"]: row for row in each.get("sealedRows", ())} for each in (before, after))
    one: dict[str, RowRecord] = {**first, **first_sealed}
    other: dict[str, RowRecord] = {**second, **second_sealed}
    left = [row for row_id, row in one.items() if row_id not in other]
    right = [row for row_id, row in other.items() if row_id not in one]
    changed = _changed(left, right)
    named = {each.name for each in changed}
    return Compared(
        sealed=tuple((row, second_sealed[row_id]) for row_id, row in first_sealed.items() if row_id in second_sealed),
        pairs=tuple(_pair(row, second[row_id]) for row_id, row in first.items() if row_id in second),
        changed=changed,
        only_before=tuple(row_title(row) for row in left if row_title(row) not in named),
        only_after=tuple(row_title(row) for row in right if row_title(row) not in named),
        failed_before=tuple(failures(rows_of(before))),
        failed_after=tuple(failures(rows_of(after))),
    )


def judged_difference(found: Difference, *, limit_points: float) -> LimitVerdict:
    """Whether the overhead rose by more than `limit_points`, by the 95 % interval of the difference.

    Within only if its upper end is at most the limit, over if its lower end is above; one round on either side is inconclusive.
    """
    if found.ci95 is None or found.ci95.low <= limit_points < found.ci95.high:
        return LimitVerdict.INCONCLUSIVE
    return LimitVerdict.WITHIN if found.ci95.high <= limit_points else LimitVerdict.OVER


def _changed(left: list[RowRecord], right: list[RowRecord]) -> tuple[ChangedRow, ...]:
    """Rows of one name, each with what makes them another row."""
    by_name = {row_title(row): row for row in right}
    return tuple(
        ChangedRow(name=row_title(row), what=_differing(row, by_name[row_title(row)]))
        for row in left
        if row_title(row) in by_name
    )


def _differing(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    found = [
        f"{word}: {_shown(before.get(field))}, {_shown(after.get(field))}"
        for field, word in _ROW.items()
        if before.get(field) != after.get(field)
    ]
    return "; ".join(found) or "its test declares something else"


def _shown(value: object) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


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
        name=row_title(before),
        before=before,
        after=after,
        difference=difference(
            log_ratios(before), log_ratios(after), sampled_before=sampling_of(before), sampled_after=sampling_of(after)
        ),
        unlike=", ".join(differing),
    )
