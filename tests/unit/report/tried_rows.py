"""Rows that were tried more than once, and one change of their attempts at a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pytest_glasshouse.report.attempts import (
    attempt_entry,
    lost_attempt_entry,
    standing_record,
)
from tests.unit.report import example

AT = "2026-11-20T17:00:00Z"


NOW = datetime(2026, 11, 20, 18, tzinfo=UTC)


def tried(*records: Any) -> Any:
    """The record that stands for these attempts; None is one that left nothing."""
    entries = [lost_attempt_entry() if each is None else attempt_entry(each) for each in records]
    attempts: Any = [({"startedAt": AT, **entry}, each) for entry, each in zip(entries, records, strict=True)]
    return standing_record(attempts)


def slow() -> Any:
    seen = example.observation(unseen=())
    seen["allocation"]["slower"] = 89
    return example.publishable(observation=seen)


def _set(**changes: Any) -> Any:
    return lambda row: row.update(changes)


def _entry(place: int, **changes: Any) -> Any:
    return lambda row: row["attempts"][place].update(changes)


EDITS: dict[str, tuple[Any, str]] = {
    "published all the same": (_set(publishable=True, unpublishableBecause=[]), ".publishable"),
    "another reason": (_set(unpublishableBecause=["dry run"]), ".publishable"),
    "numbered otherwise": (_entry(0, attempt=2), ".attempts"),
    "another stands": (lambda row: [each.update(stands=not each["stands"]) for each in row["attempts"]], ".attempts"),
    "both stand": (_entry(1, stands=True), ".attempts"),
    "the first was lost": (_entry(0, outcome="lost"), ".attempts"),
    "its figure was another": (_entry(0, overheadPct=1.0), ".attempts[0]"),
    "its observation was another": (_entry(0, observationSha256="0" * 64), ".attempts[0]"),
}
