"""Attempts at rows, in this pytest run and in earlier ones, and the file of the run directory that lists them.

A row that was judged stays, good or bad. What was never judged (not started, lost, infrastructure) runs again, and the
report names every attempt it was begun in.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

from pytest_glasshouse.report.attempts import NEVER_JUDGED

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.report.fields import RunAttempt
    from pytest_glasshouse.report.run_key import TagKey

PLAN, HISTORY = "plan.json", "attempts.jsonl"
NOT_STARTED = "the run ended before this row was started"
#: The name of an attempt of which only the start of its test is known.
_UNNAMED = "unnamed-"


class AttemptMessage(TypedDict):
    """What a test's process sends of one attempt at its row: that it was begun, what it has so far, its record.

    `notJson` is the error that kept what was observed out of the record.
    """

    attempt: str
    at: str
    record: Record | None
    notJson: NotRequired[str]


class BegunAttempt(TypedDict):
    """The line of an attempt that was begun; `attempt` is empty where only a report remembers it."""

    rowId: str
    attempt: str
    at: str


class RowAttempts:
    """The attempts at one row in this run of pytest, in the order they began. Each is sent by its process, some twice.

    A test's start counts as an attempt too: that of a process that died before it could send one.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, Record | None]] = {}
        # Workers send attempts in a thread of the broker's, and tests start in pytest's own.
        self._lock = threading.Lock()
        self._starts = 0
        self._finished: set[str] = set()

    def start(self) -> None:
        """The row's test starts, here or in a worker."""
        with self._lock:
            self._starts += 1
            if self._starts > len(self._found):
                self._found[f"{_UNNAMED}{self._starts}"] = ("", None)

    def begin(self, message: AttemptMessage) -> bool:
        """An attempt was begun; whether that is new."""
        name = message["attempt"]
        with self._lock:
            if name in self._found:
                return False
            unnamed = [each for each in self._found if each.startswith(_UNNAMED)]
            if unnamed:
                self._found = {name if each == unnamed[-1] else each: value for each, value in self._found.items()}
            self._found[name] = (message["at"], None)
            return True

    def update(self, message: AttemptMessage) -> bool:
        """What an attempt has so far, or its record; whether that is new."""
        with self._lock:
            changed = self._found[message["attempt"]][1] != message["record"]
            self._found[message["attempt"]] = (message["at"], message["record"])
            return changed

    def finish(self, message: AttemptMessage) -> bool:
        """An attempt has ended; whether that is new."""
        new = message["attempt"] not in self._finished
        self._finished.add(message["attempt"])
        return new

    def all(self) -> list[tuple[str, Record | None]]:
        """When each attempt began (empty where that is unknown), and its record if there is one."""
        return list(self._found.values())


class AttemptHistory:
    """The events of each attempt of the run, one tagged JSON line each: start, begin, finish. A kill leaves those before it."""

    def __init__(self, directory: Path, tag_key: TagKey) -> None:
        from pytest_glasshouse.report.run_directory import TaggedLines

        self._directory = directory
        self._tag_key = tag_key
        self._lines = TaggedLines(directory / HISTORY, tag_key)

    def start(self, plan: Mapping[str, object], *, attempt: int, at: str, judged_before: Sequence[str]) -> None:
        """A new attempt begins; `plan` is what every attempt of the run agrees on."""
        from pytest_glasshouse.report.run_directory import private_directory, write_tagged

        write_tagged(private_directory(self._directory) / PLAN, plan, self._tag_key)
        self._append({"event": "start", "attempt": attempt, "at": at, "kept": list(judged_before)})

    def restore(self, attempts: Sequence[RunAttempt]) -> None:
        """Write earlier attempts that only a report remembers."""
        for each in attempts:
            self._append({"event": "start", "attempt": each["attempt"], "at": each["startedAt"], "kept": each["kept"]})
            for row_id in each["begun"]:
                self.begin(row_id)
            for finished in each["finished"]:
                self._append({"event": "finish", **finished})

    def begin(self, row_id: str, *, attempt: str = "", at: str = "") -> None:
        """An attempt at a row is begun; `attempt` is the name of its record."""
        self._append({"event": "begin", "rowId": row_id, "attempt": attempt, "at": at})

    def finish(self, row_id: str, outcome: str) -> None:
        """A row has its record."""
        self._append({"event": "finish", "rowId": row_id, "outcome": outcome})

    def attempts(self) -> list[RunAttempt]:
        """Every attempt so far, as the report has them."""
        found: list[RunAttempt] = []
        for event in self._lines.read():
            if event["event"] == "start":
                found.append(
                    {"attempt": event["attempt"], "startedAt": event["at"], "kept": event["kept"], "begun": [], "finished": []}
                )
            elif event["event"] == "begin":
                found[-1]["begun"].append(event["rowId"])
            else:
                found[-1]["finished"].append({"rowId": event["rowId"], "outcome": event["outcome"]})
        return found

    def begun_last(self) -> list[BegunAttempt]:
        """The attempts at rows that the last run of pytest began."""
        found: list[BegunAttempt] = []
        for event in self._lines.read():
            if event["event"] == "start":
                found = []
            elif event["event"] == "begin":
                found.append({"rowId": event["rowId"], "attempt": event.get("attempt", ""), "at": event.get("at", "")})
        return found

    def _append(self, event: Mapping[str, object]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lines.append(event)


def outcome_of(record: Record) -> str:
    """A record's outcome; `measured` for a row that was not excluded."""
    return record["record"]["outcome"] if record["list"] == "excludedResults" else "measured"


def reason_of(record: Record) -> str | None:
    """Why a row was excluded; None for a row that was measured."""
    return record["record"]["reason"] if record["list"] == "excludedResults" else None


def is_judged(record: Record) -> bool:
    """Whether a row was judged: its record stays, and a later attempt does not run it."""
    return outcome_of(record) not in NEVER_JUDGED and reason_of(record) != NOT_STARTED
