"""The four fixtures of a row test. Every row test must call `row_report.record()`.

This module knows one test. It refuses to know where the allocation comes from and where the record goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.plugin.stash import ATTEMPTS, RECORD, ROW, RUN_CONTEXT, TAMPER, options_of
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import RowRecord
    from pytest_glasshouse.observation.outcome import Outcome
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.attempt_history import AttemptMessage
    from pytest_glasshouse.run.engine import RowObjects
    from pytest_glasshouse.run.plan import RunContext
    from pytest_glasshouse.run.record_store import ReportPayload
    from pytest_glasshouse.wire.canonical import Json


class RowReport:
    """Writes this test's part of the report."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def record(self, outcome: Any) -> RowRecord | dict[str, Json]:
        """Record a row's outcome, measured or not, or a result of the tamper suite; returns what goes into the report."""
        from pytest_glasshouse.plugin import row_attempts

        if hasattr(outcome, "expected_reason"):
            return self.record_tamper(outcome)
        _context(self._item)
        # Legs that did not fit beside each other were run in turn, as a row that differs in `resident`.
        refuse_another_row(self._item, outcome.row, except_for=("resident",))
        return row_attempts.record_outcome(self._item, outcome)["record"]

    def record_tamper(self, result: Any) -> dict[str, Json]:
        """Record the result of one tamper case."""
        case = dataclasses.asdict(result)
        self._item.stash.setdefault(TAMPER, []).append(case)
        return case


class OneRow:
    """The allocation of one test. It carries out the row the test was parametrized with and no other: only that was priced."""

    def __init__(self, allocation: Any, item: pytest.Item) -> None:
        self._allocation = allocation
        self._item = item

    def __getattr__(self, name: str) -> Any:
        return getattr(self._allocation, name)

    def carry_out(self, row: RowSpec, protected: Any, raw: Any) -> Any:
        """Run every round of the row. See `RowSpec.run`; raises `ConfigurationError` for another row."""
        from pytest_glasshouse.plugin import row_attempts

        refuse_another_row(self._item, row)
        attempt = row_attempts.begin_carrying_out(self._item)
        # An error that the test catches is the end of this attempt all the same.
        with row_attempts.recording_errors(self._item):
            outcome = self._allocation.carry_out(row, protected, raw)
            row_attempts.end_carrying_out(self._item, attempt, outcome)
        return outcome


def refuse_another_row(item: pytest.Item, row: RowSpec, *, except_for: tuple[str, ...] = ()) -> None:
    """Raise `ConfigurationError`, naming test and field, unless `row` is the item's in all but the fields in `except_for`."""
    row_item = item.stash.get(ROW, None)
    if row_item is None:
        raise _no_row(item)
    own = row_item.row
    same = dataclasses.replace(row, **{name: getattr(own, name) for name in except_for})
    if same.row_id == own.row_id:
        return
    field = next(each.name for each in dataclasses.fields(own) if getattr(same, each.name) != getattr(own, each.name))
    raise ConfigurationError(
        f"{printable(item.name)}: field {field}: expected {printable(repr(getattr(own, field)))} as in the row this test runs, "
        f"saw {printable(repr(getattr(row, field)))}; only that row was priced: "
        "parametrize a test with the other row too"
    )


def _no_row(item: pytest.Item) -> ConfigurationError:
    name = printable(item.name)
    return ConfigurationError(f"{name}: expected a parameter that is a RowSpec, saw none; parametrize the test with rows")


@pytest.fixture
def _glasshouse_row_objects(request: pytest.FixtureRequest) -> Iterator[RowObjects | None]:
    """One allocation for this row, given back when the test has ended."""
    item: pytest.Item = request.node
    if request.config.getoption("setuponly", default=False):
        yield None
        return
    row_item = item.stash.get(ROW, None)
    if row_item is None:
        raise _no_row(item)
    from pytest_glasshouse.legs.row_settings import RowSettings
    from pytest_glasshouse.plugin.stash import engine_of
    from pytest_glasshouse.wire.run_plan import read_planned_row

    context, options = _context(item), options_of(item.config)

    def on_round(outcome: Outcome) -> None:
        from pytest_glasshouse.plugin import row_attempts
        from pytest_glasshouse.run.records import width_of

        finished, row = len(outcome.observation["rounds"]), outcome.row
        moment = {"row_id": row.row_id, "leg": "", "phase": "interval", "round": finished, "rounds": row.rounds, "elapsed_s": 0.0}
        context.on_progress({**moment, "half_width_pct": width_of(outcome, engine_of(item.config))})
        with contextlib.suppress(GlasshouseError, OSError, ValueError, TypeError, RecursionError):
            row_attempts.update(item, outcome)

    settings = RowSettings(
        declared=row_item.declared,
        run_id=context.plan.run_id,
        seed=context.plan.seed,
        fixed_order=options.fixed_order,
        leg_timeout_s=options.leg_timeout_s,
        model=row_item.model or context.plan.reference(row_item.row),
        model_sources=options.model_sources_of(row_item.row),
        stand_in=options.stand_in,
        subject=dict(context.plan.subject),
        strict_memory=options.strict_memory,
        half_width_pct=options.half_width_pct,
        planned=tuple(map(read_planned_row, context.plan.planned)),
        looks=options.looks,
        on_round=on_round,
        server=options.outside_server,
        policy=options.owner_policy,
        owner_key=options.owner_key,
    )
    if context.broker is None:
        raise InfrastructureError(
            f"row {row_item.row.name!r} was not selected when the run was opened (worker {context.worker}); nothing was rented"
        )
    grant = context.broker.acquire(row_item.row, worker=context.worker)
    try:
        yield engine_of(item.config).row_objects(grant, context.broker, settings, context.on_progress)
    finally:
        # What cannot be released is ended at the end of the run, where cleanup is judged.
        with contextlib.suppress(GlasshouseError, OSError):
            context.broker.release(grant, worker=context.worker)


@pytest.fixture
def allocation(request: pytest.FixtureRequest, _glasshouse_row_objects: RowObjects | None) -> Any:
    """The GPU box both legs of this row run on."""
    return _glasshouse_row_objects and OneRow(_glasshouse_row_objects.allocation, request.node)


@pytest.fixture
def protected_runtime(_glasshouse_row_objects: RowObjects | None) -> Any:
    """Runs the protected leg on the allocation."""
    return _glasshouse_row_objects and _glasshouse_row_objects.protected_runtime


@pytest.fixture
def raw_runner(_glasshouse_row_objects: RowObjects | None) -> Any:
    """Runs the raw leg on the allocation."""
    return _glasshouse_row_objects and _glasshouse_row_objects.raw_runner


@pytest.fixture
def row_report(request: pytest.FixtureRequest) -> RowReport:
    """Writes this row's part of the report: `row_report.record(outcome)`."""
    return RowReport(request.node)


def _context(item: pytest.Item) -> RunContext:
    context = item.config.stash.get(RUN_CONTEXT, None)
    if context is None:
        raise ConfigurationError(f"{printable(item.name)}: expected an open run, saw none; run its row with pytest")
    return context


def is_reported(item: pytest.Item) -> bool:
    """Whether the item adds to the report: a row, or a result of the tamper suite."""
    return ROW in item.stash or "row_report" in getattr(item, "fixturenames", ())


def fail_unless_passed(item: pytest.Item) -> None:
    """After a row's test body: fail the test if its row was not recorded, not measured, or does not meet the run's limits."""
    from pytest_glasshouse.plugin import row_attempts
    from pytest_glasshouse.run.records import failure_of

    record = item.stash.get(RECORD, None)
    if record is None:
        pytest.fail(
            "the row was not recorded: every row test must call row_report.record(outcome) with what row.run(...) returned",
            pytrace=False,
        )
    failure = failure_of(record, options_of(item.config))
    if failure:
        pytest.fail(failure, pytrace=False)
    number, stands, any_broken = row_attempts.standing(item)
    failure = failure_of(stands, options_of(item.config)) if stands is not None else ""
    if failure or any_broken:
        why = failure or "something was broken in an earlier attempt"
        pytest.fail(f"attempt {number} at this row stands, whatever later attempts gave: {why}", pytrace=False)


def payload(item: pytest.Item) -> str | None:
    """What the teardown report carries to the process that writes the report: a `ReportPayload` as one JSON string."""
    attempts, tamper = item.stash.get(ATTEMPTS, []), item.stash.get(TAMPER, [])
    if not attempts and not tamper:
        return None
    from pytest_glasshouse.plugin.stash import engine_of

    found: ReportPayload = {
        "attempts": [each.message(each.record) for each in attempts],
        "tamper": tamper,
        "outstanding": list(engine_of(item.config).outstanding()),
        "tally": engine_of(item.config).tally(_context(item).plan.run_id),
    }
    try:
        return json.dumps(found)  # a NaN is sent: what is no strict JSON is withheld where the report is written
    except (ValueError, TypeError, RecursionError):
        found["attempts"] = [_as_json(each) for each in found["attempts"]]
        return json.dumps(found)


def _as_json(message: AttemptMessage) -> AttemptMessage:
    """A message as it is; one whose record cannot be written as JSON at all gets a record without what was observed."""
    from pytest_glasshouse.publish.objections import Objection
    from pytest_glasshouse.publish.redact_published import withheld_record

    try:
        json.dumps(message)
    except (ValueError, TypeError, RecursionError) as error:
        kind = type(error).__name__
        objection = Objection(path="$.observation", text=f"what was observed is no JSON ({kind})")
        record = message["record"]
        assert record is not None  # noqa: S101  (without one there is nothing that is no JSON)
        return {**message, "record": withheld_record(record, objection), "notJson": kind}
    return message


def is_dry_run(item: pytest.Item) -> bool:
    """Whether the item's row was measured, names a GPU, and did not run on a rented or owned one."""
    record = item.stash.get(RECORD, None)
    return record is not None and record["record"]["dryRun"] and record["record"].get("namedGpuModel") is not None
