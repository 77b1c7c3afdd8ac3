"""A row test's attempts at its row, in the process that runs it. What a retry plugin does to reports does not reach them.

An attempt begins with the test's set-up, and again where the row is carried out or recorded a second time. It ends with a
record: of the outcome, or of the error that came in its way. The item holds all of them, each is sent to the run at once, and
the test fails as long as the attempt that stands for the row fails.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.plugin.stash import ATTEMPTS, RECORD, ROW, RUN_CONTEXT, options_of

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.observation.outcome import Outcome
    from pytest_glasshouse.run.attempt_history import AttemptMessage

#: What ends a session, and shows nothing about a row.
_SESSION_ENDS = (KeyboardInterrupt, GeneratorExit, pytest.exit.Exception)


@dataclass(kw_only=True)
class RowAttempt:
    """One attempt: `outcome` is that of the row once it was carried out, `record` what goes into the report."""

    attempt: str = field(default_factory=lambda: secrets.token_hex(8))
    at: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    carried_out: bool = False
    outcome: Outcome | None = None
    record: Record | None = None

    def message(self, record: Record | None) -> AttemptMessage:
        """What is sent to the run: a record, or only that the attempt was begun."""
        return {"attempt": self.attempt, "at": self.at, "record": record}


def begin(item: pytest.Item) -> None:
    """Begin an attempt. Where the one before was carried out and never recorded, its outcome is recorded now."""
    attempts = item.stash.setdefault(ATTEMPTS, [])
    if attempts and attempts[-1].record is None and (record := _unrecorded(item)) is not None:
        _end(item, record)
    attempts.append(RowAttempt())
    if RECORD in item.stash:
        del item.stash[RECORD]
    _send(item, attempts[-1].message(None))


def begin_carrying_out(item: pytest.Item) -> RowAttempt:
    """The attempt in which the row is carried out now: a second time in one test is another attempt."""
    attempt = _current(item)
    if attempt.carried_out or attempt.record is not None:
        begin(item)
        attempt = _current(item)
    attempt.carried_out = True
    return attempt


def end_carrying_out(item: pytest.Item, attempt: RowAttempt, outcome: Outcome) -> None:
    """The row was carried out. What did not hold is sent now: a process that ends before it is recorded hides nothing."""
    attempt.outcome = outcome
    record = _unrecorded(item)
    if record is not None and record["list"] == "excludedResults":
        _send(item, attempt.message(record))


def record_outcome(item: pytest.Item, outcome: Outcome) -> Record:
    """Record an outcome with the attempt it came from. Another outcome than that attempt's record is another attempt's."""
    record, current = _record_of(item, outcome), _current(item)
    own = next((each for each in item.stash[ATTEMPTS] if each.outcome is outcome), current)
    if own.record is not None and not _same_outcome(own.record, record):
        begin(item)
        record, own = _record_of(item, outcome), _current(item)
    _end(item, record, own)
    return record


def _same_outcome(one: Record, other: Record) -> bool:
    """Whether two records are of one outcome; what they show of attempts may have changed meanwhile."""
    names = ("list", "outcome", "observation")
    return [{**one, **one["record"]}.get(name) for name in names] == [{**other, **other["record"]}.get(name) for name in names]


def update(item: pytest.Item, outcome: Outcome) -> None:
    """Send how a row stands that is still carried out. Where that fails, it is lost only if the row is lost too."""
    with contextlib.suppress(GlasshouseError):
        _send(item, _current(item).message(_record_of(item, outcome)))


@contextlib.contextmanager
def recording_errors(item: pytest.Item) -> Iterator[None]:
    """An error of set-up or test ends the attempt that was begun, if it has no record yet."""
    try:
        yield
    except _SESSION_ENDS:
        raise
    except BaseException as error:
        if item.stash.get(ATTEMPTS, None):
            _record_error(item, error)
        raise


def _record_error(item: pytest.Item, error: BaseException) -> None:
    """End an attempt that has no record: with what did not hold in what was carried out, else with the error."""
    from pytest_glasshouse.run.records import record_of_error

    if _current(item).record is not None:
        return
    record = _unrecorded(item)
    if record is not None and record["list"] == "excludedResults":
        _end(item, record)
        return
    skipped = isinstance(error, pytest.skip.Exception)
    plan, options = item.config.stash[RUN_CONTEXT].plan, options_of(item.config)
    _end(item, record_of_error(item.stash[ROW], options, error, skipped=skipped, seed=plan.seed))


def _unrecorded(item: pytest.Item) -> Record | None:
    """The record of an outcome that the test did not record; None where there is no outcome, or it cannot be judged."""
    outcome = _current(item).outcome
    with contextlib.suppress(Exception):
        return None if outcome is None else _record_of(item, outcome)
    return None


def standing(item: pytest.Item) -> tuple[int, Record | None, bool]:
    """Number and record of the attempt that stands for the row, as far as this process knows; and whether any was broken."""
    from pytest_glasshouse.report import attempts

    own = item.stash[ATTEMPTS]
    entries = [attempts.lost_attempt_entry() if each.record is None else attempts.attempt_entry(each.record) for each in own]
    place = attempts.standing_place(entries)
    return _earlier_attempts(item) + place + 1, own[place].record, any(attempts.has_broken(each) for each in entries)


def _record_of(item: pytest.Item, outcome: Outcome) -> Record:
    from pytest_glasshouse.plugin.stash import engine_of
    from pytest_glasshouse.report.attempts import NEEDED_MORE
    from pytest_glasshouse.run.records import record_of

    config = item.config
    several = (NEEDED_MORE,) if _earlier_attempts(item) + len(item.stash.get(ATTEMPTS, [])) > 1 else ()
    seed = config.stash[RUN_CONTEXT].plan.seed
    return record_of(outcome, options_of(config), engine_of(config), seed=seed, unpublishable=several)


def _earlier_attempts(item: pytest.Item) -> int:
    """How many attempts at the row earlier runs of pytest have made, in a run that is resumed."""
    return item.config.stash[RUN_CONTEXT].plan.earlier_attempts.get(item.stash[ROW].row.row_id, 0)


def _current(item: pytest.Item) -> RowAttempt:
    if not item.stash.get(ATTEMPTS, None):
        begin(item)
    return item.stash[ATTEMPTS][-1]


def _end(item: pytest.Item, record: Record, attempt: RowAttempt | None = None) -> None:
    attempt = attempt or _current(item)
    attempt.record = item.stash[RECORD] = record
    _send(item, attempt.message(record))


def _send(item: pytest.Item, message: AttemptMessage) -> None:
    """Send it to the run at once: a process that is killed, or a plugin that drops a report, takes nothing along."""
    # What is no JSON cannot be sent: the row is withheld where its test ends (`fixtures.payload`).
    with contextlib.suppress(GlasshouseError, OSError, ValueError, TypeError, RecursionError):
        item.config.stash[RUN_CONTEXT].update(item.nodeid, message)
