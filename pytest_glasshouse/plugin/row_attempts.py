"""A row test's attempts at its row, in the process that runs it. What a retry plugin does to reports does not reach them.

An attempt begins with the test's set-up, and again where the row is carried out or recorded a second time. It ends with a
record: of the outcome, or of the error that came in its way. The item keeps them all, the run hears of each at once, and
the test fails as long as the attempt that stands for the row fails.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.plugin.stash import OPTIONS, RECORD, ROW, RUN_CONTEXT, TRIES

if TYPE_CHECKING:
    from pytest_glasshouse.run.records import RunRecord

#: What ends a session, and says nothing about a row.
_ENDINGS = (KeyboardInterrupt, GeneratorExit, pytest.exit.Exception)


@dataclass(kw_only=True)
class Try:
    """One attempt: `outcome` is what was carried out, `record` what is told of it, once there is one."""

    attempt: str = field(default_factory=lambda: secrets.token_hex(8))
    at: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    carried: bool = False
    outcome: Any = None
    record: RunRecord | None = None

    def stamped(self, record: RunRecord | None) -> RunRecord:
        """A record as it travels to the run; without one, only that the attempt was begun."""
        return {**(record or {}), "attempt": self.attempt, "at": self.at}


def begin(item: pytest.Item) -> None:
    """A new attempt begins. Of one before that was carried out and never recorded, what was seen is recorded now."""
    tries = item.stash.setdefault(TRIES, [])
    if tries and tries[-1].record is None and (seen := _seen(item)) is not None:
        _end(item, seen)
    tries.append(Try())
    if RECORD in item.stash:
        del item.stash[RECORD]
    _tell(item, tries[-1].stamped(None))


def carry(item: pytest.Item) -> Try:
    """The attempt in which the row is carried out now: a second time in one is another attempt."""
    now = _current(item)
    if now.carried or now.record is not None:
        begin(item)
        now = _current(item)
    now.carried = True
    return now


def carried_out(item: pytest.Item, attempt: Try, outcome: Any) -> None:
    """A row was carried out. What did not hold in it is told now: an end of the process before it is recorded hides nothing."""
    attempt.outcome = outcome
    seen = _seen(item)
    if seen is not None and seen["list"] == "excludedResults":
        _tell(item, attempt.stamped(seen))


def recorded(item: pytest.Item, outcome: Any) -> RunRecord:
    """Record an outcome, of the attempt it came of. Another one than was recorded of that is another attempt's."""
    record, now = _record(item, outcome), _current(item)
    own = next((each for each in item.stash[TRIES] if each.outcome is outcome), now)
    if own.record is not None and not _same(own.record, record):
        begin(item)
        record, own = _record(item, outcome), _current(item)
    _end(item, record, own)
    return record


def _same(one: RunRecord, other: RunRecord) -> bool:
    """Whether two records are of one outcome; what they say of attempts may have changed meanwhile."""
    told = ("list", "outcome", "observation")
    return [{**one, **one["record"]}.get(name) for name in told] == [{**other, **other["record"]}.get(name) for name in told]


def keep(item: pytest.Item, outcome: Any) -> None:
    """Remember how a row stands that is still carried out. What is not remembered is lost only if the row is, too."""
    with contextlib.suppress(GlasshouseError):
        _tell(item, _current(item).stamped(_record(item, outcome)))


@contextlib.contextmanager
def noting(item: pytest.Item) -> Iterator[None]:
    """An error of set-up or test ends the attempt that was made, if it has no record yet."""
    try:
        yield
    except _ENDINGS:
        raise
    except BaseException as error:
        if item.stash.get(TRIES, None):
            failed(item, error)
        raise


def failed(item: pytest.Item, error: BaseException) -> None:
    """End an attempt that has no record: with what did not hold in what was carried out, else with the error."""
    from pytest_glasshouse.run.records import record_of_error

    if _current(item).record is not None:
        return
    seen = _seen(item)
    if seen is not None and seen["list"] == "excludedResults":
        _end(item, seen)
        return
    skipped = isinstance(error, pytest.skip.Exception)
    plan, options = item.config.stash[RUN_CONTEXT].plan, item.config.stash[OPTIONS]
    _end(item, record_of_error(item.stash[ROW], options, error, skipped=skipped, seed=plan.seed))


def _seen(item: pytest.Item) -> RunRecord | None:
    """The record of what was carried out and nobody recorded; None where nothing was, or it cannot be judged."""
    outcome = _current(item).outcome
    with contextlib.suppress(Exception):
        return None if outcome is None else _record(item, outcome)
    return None


def standing(item: pytest.Item) -> tuple[int, RunRecord | None, bool]:
    """Number and record of the attempt that stands for the row, as far as this process knows; and whether any was broken."""
    from pytest_glasshouse.report import attempts

    tries = item.stash[TRIES]
    told = [attempts.lost_attempt_entry() if each.record is None else attempts.attempt_entry(each.record) for each in tries]
    place = attempts.standing_place(told)
    return _before(item) + place + 1, tries[place].record, any(attempts.has_broken(each) for each in told)


def _record(item: pytest.Item, outcome: Any) -> RunRecord:
    from pytest_glasshouse.plugin.stash import engine_of
    from pytest_glasshouse.report.attempts import NEEDED_MORE
    from pytest_glasshouse.run.records import record_of

    config = item.config
    again = (NEEDED_MORE,) if _before(item) + len(item.stash.get(TRIES, [])) > 1 else ()
    seed = config.stash[RUN_CONTEXT].plan.seed
    return record_of(outcome, config.stash[OPTIONS], engine_of(config), seed=seed, unpublishable=again)


def _before(item: pytest.Item) -> int:
    """How many attempts at the row earlier runs of pytest have made, in a run that goes on."""
    return int(item.config.stash[RUN_CONTEXT].plan.tried.get(item.stash[ROW].row.row_id, 0))


def _current(item: pytest.Item) -> Try:
    if not item.stash.get(TRIES, None):
        begin(item)
    return item.stash[TRIES][-1]


def _end(item: pytest.Item, record: RunRecord, attempt: Try | None = None) -> None:
    attempt = attempt or _current(item)
    attempt.record = item.stash[RECORD] = record
    _tell(item, attempt.stamped(record))


def _tell(item: pytest.Item, told: RunRecord) -> None:
    """The run hears of it at once: a process that is killed, or a plugin that drops a report, takes nothing along."""
    # What is no JSON cannot be told: the row is withheld where its test ends (`fixtures.payload`).
    with contextlib.suppress(GlasshouseError, OSError, ValueError, TypeError, RecursionError):
        item.config.stash[RUN_CONTEXT].keep(item.nodeid, told)
