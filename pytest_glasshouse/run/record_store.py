"""The records of a run's rows, as its processes send them: on disk before anything else happens to them.

This module knows every attempt at a row that this run of pytest began. It refuses to judge a row, and to publish one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_glasshouse.run.attempt_history import (
    AttemptHistory,
    AttemptMessage,
    RowAttempts,
    is_judged,
    outcome_of,
)
from pytest_glasshouse.run.plan import agreed_options

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import Record, StartedAttempt
    from pytest_glasshouse.report.row_journal import RowJournal
    from pytest_glasshouse.report.run_key import TagKey
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.run.plan import RunInputs, RunPlan
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.run_plan import TallyRecord


class ReportPayload(TypedDict):
    """What a finished test's report carries: the attempts at its row, tamper results, and the keys its process still awaits.

    `tally` is what the attestation server of its process counted, where it has one of its own.
    """

    attempts: list[AttemptMessage]
    tamper: list[dict[str, Json]]
    outstanding: list[dict[str, Json]]
    tally: TallyRecord | None


class RecordStore:
    """The attempts and records of the selected `rows`, by node id. `judged_before` are the tests of rows of the resumed run."""

    def __init__(self, inputs: RunInputs, plan: RunPlan, rows: Mapping[str, RowItem], directory: Path, tag_key: TagKey) -> None:
        earlier = inputs.earlier
        self._inputs = inputs
        self._plan = plan
        self._rows = rows
        self._directory = directory
        self._tag_key = tag_key
        self.history = AttemptHistory(directory, tag_key)
        self.records: dict[str, Record] = {
            nodeid: earlier.records[each.row.row_id]
            for nodeid, each in rows.items()
            if earlier is not None and each.row.row_id in earlier.records
        }
        self.judged_before = frozenset(self.records)
        self.begun: list[str] = []
        self.tamper: list[Any] = []
        self.outstanding: dict[str, list[dict[str, Json]]] = {}
        """Key releases that no leg has completed, as each worker saw them last."""
        self.tallies: dict[str, TallyRecord] = {}
        """The last tally of each worker that has an attestation server of its own."""
        self.not_json: list[str] = []
        self.problems: list[str] = []
        self.interrupted_by = ""
        self._attempts = {nodeid: RowAttempts() for nodeid in rows}
        self._journal: RowJournal | None = None

    def open(self, report: Path, *, models: Mapping[str, str]) -> None:
        """Write down what a later attempt has to agree with, before the first row. Raises `OSError`.

        `models` is what the models of rows were resolved to: `repo@commit`, by the name that the rows have.
        """
        _ = self.journal
        earlier = self._inputs.earlier
        if earlier is not None:
            if not self.history.attempts():
                self.history.restore(earlier.attempts)
            for row_id, record in earlier.records.items():
                line: Any = {**record, "rowId": row_id}
                self.journal.append(line)
        options = self._inputs.options
        plan = {
            "runId": self._plan.run_id,
            "seed": self._plan.seed,
            "subject": self._plan.subject,
            "provider": options.provider,
            "options": agreed_options(options),
            "report": str(report.absolute()),
            "models": {**({} if earlier is None else earlier.models), **models},
            "rows": {each.row.row_id: each.row.name for each in self._rows.values()},
            "tried": {} if earlier is None else {row_id: list(entries) for row_id, entries in earlier.unjudged.items()},
        }
        # A kill between a row's record and its `finish` line leaves the record, which is what counts.
        finished = {each["rowId"] for attempt in self.history.attempts() for each in attempt["finished"]}
        judged_before = {self._rows[nodeid].row.row_id: self.records[nodeid] for nodeid in sorted(self.judged_before)}
        for row_id, record in judged_before.items():
            if row_id not in finished:
                self.history.finish(row_id, outcome_of(record))
        at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        self.history.start(plan, attempt=self._plan.attempt, at=at, judged_before=list(judged_before))

    def begin(self, nodeid: str) -> None:
        """A test with something to report starts."""
        if nodeid in self._rows and nodeid not in self.judged_before:
            if nodeid not in self.begun:
                self.begun.append(nodeid)
            self._attempts[nodeid].start()

    def receive(self, nodeid: str, payload: str, *, worker: str = "") -> None:
        """Add what a finished test reported: every attempt at its row, and what its process knows of keys."""
        received: ReportPayload = json.loads(payload)
        self.tamper += received["tamper"]
        self.outstanding[worker] = received["outstanding"]
        if (tally := received["tally"]) is not None:
            self.tallies[worker] = tally
        for message in received["attempts"]:
            record = message["record"]
            if "notJson" in message and record is not None:
                name = record["record"]["name"]
                self.not_json.append(f"row {name}: what was observed is no JSON ({message['notJson']}); the row is withheld")
            self.update(nodeid, message)
            if record is not None and nodeid in self._attempts and self._attempts[nodeid].finish(message):
                with self._on_disk():
                    self.history.finish(record["record"]["rowId"], outcome_of(record))
                self._inputs.row_finished(record)

    def update(self, nodeid: str, message: AttemptMessage) -> None:
        """Add what is known of an attempt at a row: that it was begun, the rounds it has finished so far, its record."""
        attempts = self._attempts.get(nodeid)
        if attempts is None:
            return
        with self._on_disk():
            if attempts.begin(message):
                self.history.begin(self._rows[nodeid].row.row_id, attempt=message["attempt"], at=message["at"])
            if message["record"] is not None and attempts.update(message):
                line: Any = {**message["record"], "attempt": message["attempt"], "at": message["at"]}
                self.journal.append(line)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A write that would outlive a kill. Where it fails the run goes on, warns once, and still reports."""
        try:
            yield
        except OSError as error:
            problem = (
                f"{self._directory} cannot be written ({error.strerror or error}): had the run been killed, rows would be lost"
            )
            if problem not in self.problems:
                self.problems.append(problem)

    @property
    def journal(self) -> RowJournal:
        """The rows on disk. Made before the first row runs: its lines are one chain, and two threads add to it."""
        from pytest_glasshouse.report.row_journal import RowJournal

        if self._journal is None:
            self._journal = RowJournal(self._directory, self._tag_key)
        return self._journal

    def settle(self) -> None:
        """Give every row the one record that stands for it, from every attempt at it, those of earlier runs of pytest too."""
        self.records = {
            nodeid: self.records[nodeid] if nodeid in self.judged_before else self._settled(nodeid, row_item)
            for nodeid, row_item in self._rows.items()
        }

    def _settled(self, nodeid: str, row_item: RowItem) -> Record:
        from pytest_glasshouse.report.attempts import attempt_entry, standing_record

        earlier = () if self._inputs.earlier is None else self._inputs.earlier.unjudged.get(row_item.row.row_id, ())
        entries: list[tuple[StartedAttempt, Record | None]] = [(each, None) for each in earlier]
        for at, sent in self._attempts[nodeid].all() or [("", None)]:
            record = sent or self.missing_record(nodeid, row_item)
            entries.append(({"startedAt": at or None, **attempt_entry(record)}, record))
        return standing_record(entries)

    def missing_record(self, nodeid: str, row_item: RowItem) -> Record:
        """The record of a row whose test left none."""
        from pytest_glasshouse.observation.outcome import Ended
        from pytest_glasshouse.run.attempt_history import NOT_STARTED
        from pytest_glasshouse.run.records import ended_record

        if nodeid in self.begun:
            how = f"the run ended by {self.interrupted_by}" if self.interrupted_by else "its process ended or was interrupted"
            reason = f"the row was started and left no record: {how}"
            ended = Ended(outcome="lost", reason=reason, decision="Nothing is computed from it; run the row again")
        else:
            ended = Ended(outcome="excluded", reason=NOT_STARTED, decision="Not run; run it again")
        return ended_record(row_item, self._inputs.options, ended, seed=self._plan.seed)

    @property
    def measured(self) -> int:
        """Rows with both legs measured and every finding held."""
        return sum(each["list"] != "excludedResults" for each in self.records.values())

    @property
    def not_judged(self) -> int:
        """Rows that a later attempt would run."""
        return sum(not is_judged(each) for each in self.records.values())

    @property
    def is_empty(self) -> bool:
        """Whether nothing was begun, recorded or judged before: then there is nothing to report."""
        return not self.begun and not self.tamper and not self.judged_before
