"""The four fixtures a row test uses, and what its test owes: a record.

This module knows one test. It refuses to know where the allocation comes from and where the record goes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError
from pytest_glasshouse.plugin import row_attempts as trying
from pytest_glasshouse.plugin.stash import OPTIONS, RECORD, ROW, RUN_CONTEXT, TAMPER, TRIES
from pytest_glasshouse.run.records import failure_of
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.engine import RowObjects
    from pytest_glasshouse.run.plan import RunContext


class RowReport:
    """Writes this test's part of the report."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def record(self, outcome: Any) -> dict[str, Any]:
        """Record a row's outcome, measured or not, or a result of the tamper suite; returns what goes into the report."""
        if hasattr(outcome, "expected_reason"):
            return self.record_tamper(outcome)
        _context(self._item)
        # Legs that found no room beside each other were run in turn, as the row that says so.
        refuse_another(self._item, outcome.row, like=("resident",))
        told: dict[str, Any] = trying.recorded(self._item, outcome)["record"]
        return told

    def record_tamper(self, result: Any) -> dict[str, Any]:
        """Record what became of one tamper case."""
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
        refuse_another(self._item, row)
        attempt = trying.carry(self._item)
        # An error that the test catches is the end of this attempt all the same.
        with trying.noting(self._item):
            outcome = self._allocation.carry_out(row, protected, raw)
            trying.carried_out(self._item, attempt, outcome)
        return outcome


def refuse_another(item: pytest.Item, row: RowSpec, *, like: tuple[str, ...] = ()) -> None:
    """Raise `ConfigurationError`, naming test and field, unless `row` is the item's in all but the fields in `like`."""
    found = item.stash.get(ROW, None)
    if found is None:
        raise _no_row(item)
    own = found.row
    same = dataclasses.replace(row, **{name: getattr(own, name) for name in like})
    if same.row_id == own.row_id:
        return
    field = next(each.name for each in dataclasses.fields(own) if getattr(same, each.name) != getattr(own, each.name))
    raise ConfigurationError(
        f"{printable(item.name)}: field {field}: expected {printable(repr(getattr(own, field)))} as in the row this test runs, "
        f"saw {printable(repr(getattr(row, field)))}; only the row a test is parametrized with is priced: declare the other, too"
    )


def _no_row(item: pytest.Item) -> ConfigurationError:
    name = printable(item.name)
    return ConfigurationError(f"{name}: expected a parameter that is a RowSpec, saw none; parametrize the test with rows")


@pytest.fixture
def _glasshouse_stage(request: pytest.FixtureRequest) -> Iterator[RowObjects | None]:
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

    context, options = _context(item), item.config.stash[OPTIONS]

    def keep(outcome: Any) -> None:
        from pytest_glasshouse.run.records import width_of

        finished, row = len(outcome.observation["rounds"]), outcome.row
        moment = {"row_id": row.row_id, "leg": "", "phase": "interval", "round": finished, "rounds": row.rounds, "elapsed_s": 0.0}
        context.on_progress({**moment, "half_width_pct": width_of(outcome, engine_of(item.config))})
        # What is not remembered is lost only if the row is, too.
        with contextlib.suppress(GlasshouseError, OSError, ValueError, TypeError, RecursionError):
            trying.keep(item, outcome)

    settings = RowSettings(
        declared=row_item.declared,
        run_id=context.plan.run_id,
        seed=context.plan.seed,
        fixed_order=options.fixed_order,
        leg_timeout_s=options.leg_timeout_s,
        model=row_item.model,
        subject=context.plan.subject,
        strict_memory=options.strict_memory,
        half_width_pct=options.half_width_pct,
        on_round=keep,
        server=options.outside_server,
        policy=options.demands,
    )
    grant = context.grants.acquire(row_item.row, worker=context.worker)
    try:
        yield engine_of(item.config).stage(grant, context.grants, settings, context.on_progress)
    finally:
        # What cannot be given back is ended at the end of the run, where cleanup is judged.
        with contextlib.suppress(GlasshouseError, OSError):
            context.grants.release(grant, worker=context.worker)


@pytest.fixture
def allocation(request: pytest.FixtureRequest, _glasshouse_stage: RowObjects | None) -> Any:
    """The GPU box both legs of this row run on."""
    return _glasshouse_stage and OneRow(_glasshouse_stage.allocation, request.node)


@pytest.fixture
def protected_runtime(_glasshouse_stage: RowObjects | None) -> Any:
    """Runs the protected leg on the allocation."""
    return _glasshouse_stage and _glasshouse_stage.protected_runtime


@pytest.fixture
def raw_runner(_glasshouse_stage: RowObjects | None) -> Any:
    """Runs the raw leg on the allocation."""
    return _glasshouse_stage and _glasshouse_stage.raw_runner


@pytest.fixture
def row_report(request: pytest.FixtureRequest) -> RowReport:
    """Writes this row's part of the report: `row_report.record(outcome)`."""
    return RowReport(request.node)


def _context(item: pytest.Item) -> RunContext:
    context = item.config.stash.get(RUN_CONTEXT, None)
    if context is None:
        raise ConfigurationError(f"{item.name}: rows run in a collected pytest session only")
    return context


def reports(item: pytest.Item) -> bool:
    """Whether the item has something to say in a report: a row, or a result of the tamper suite."""
    return ROW in item.stash or "row_report" in getattr(item, "fixturenames", ())


def judge(item: pytest.Item) -> None:
    """After a row's test body: fail the test if its row was not recorded, not measured, or misses what the run asks for."""
    record = item.stash.get(RECORD, None)
    if record is None:
        pytest.fail("the row was not recorded: call row_report.record(outcome) with what row.run(...) returned", pytrace=False)
    failure = failure_of(record, item.config.stash[OPTIONS])
    if failure:
        pytest.fail(failure, pytrace=False)
    number, stands, any_broken = trying.standing(item)
    failure = failure_of(stands, item.config.stash[OPTIONS]) if stands is not None else ""
    if failure or any_broken:
        why = failure or "something was broken in an earlier attempt"
        pytest.fail(f"attempt {number} at this row stands, whatever came of later ones: {why}", pytrace=False)


def payload(item: pytest.Item) -> str | None:
    """What the teardown report carries to the process that writes the report, as one JSON string."""
    tries, tamper = item.stash.get(TRIES, []), item.stash.get(TAMPER, [])
    if not tries and not tamper:
        return None
    from pytest_glasshouse.plugin.stash import engine_of

    told: dict[str, Any] = {
        "rows": [each.stamped(each.record) for each in tries],
        "tamper": tamper,
        "outstanding": list(engine_of(item.config).outstanding()),
    }
    try:
        return json.dumps(told)  # a NaN travels: what is no strict JSON is withheld where the report is written
    except (ValueError, TypeError, RecursionError):
        return json.dumps({**told, "rows": [_spoken(each) for each in told["rows"]]})


def _spoken(stamped: dict[str, Any]) -> dict[str, Any]:
    """A record as it is; in place of one that cannot be said in JSON at all, one that says so, and that it does."""
    from pytest_glasshouse.publish.objections import Objection
    from pytest_glasshouse.publish.redact_published import withheld_record

    try:
        json.dumps(stamped)
    except (ValueError, TypeError, RecursionError) as error:
        told = Objection(path="$.observation", text=f"what was observed is no JSON ({type(error).__name__})")
        return {**stamped, **withheld_record(stamped, told), "unspeakable": type(error).__name__}
    return stamped


def is_dry_run(item: pytest.Item) -> bool:
    """Whether the item's row was measured, names a GPU, and did not run on a rented or owned one."""
    record = item.stash.get(RECORD, None)
    return record is not None and record["record"]["dryRun"] and record["record"]["namedGpuModel"] is not None
