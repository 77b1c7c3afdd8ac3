"""What a run is before anything starts: its plan, the tests it selected, and what each process needs of it.

A plan is new, or that of a run that is resumed. This module refuses to start anything.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.broker.broker_socket import BrokerClient
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.fields import Subject
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.attempt_history import AttemptMessage
    from pytest_glasshouse.run.engine import Engine, Event
    from pytest_glasshouse.run.live_line import Live
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.resume import EarlierRun
    from pytest_glasshouse.wire.run_plan import PlannedRow

#: The options that decide what rows do and how they are judged, by name and by their field of `Options`.
_AGREED: Mapping[str, str] = {
    "order": "order",
    "rounds": "rounds",
    "preset": "preset",
    "fixed-order": "fixed_order",
    "leg-seconds": "leg_seconds",
    "leg-steps": "leg_steps",
    "margin": "margin_pct",
    "half-width": "half_width_pct",
    "max-overhead": "max_overhead_pct",
    "sequential": "sequential",
    "strict-memory": "strict_memory",
    "model": "model",
    "stand-in": "stand_in",
}


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """What a run needs of the process that carries it out: plain values, and three callbacks."""

    options: Options
    root: Path
    """The project's directory: reports go below it, and its commit is the subject."""
    engine: Engine
    live: Live
    ask_to_rent: Callable[[Broker], None]
    """Returns where renting is agreed to; raises `ConfigurationError` or `BudgetError` where it is not."""
    row_finished: Callable[[Record], None]
    report_written: Callable[[tuple[Path, ...]], None]
    earlier: EarlierRun | None = None
    """The run that this one resumes."""


class ResolvedModel(TypedDict):
    """A row's model: `repo@commit` where it is of a hub, and the bytes that have to reach a guest."""

    reference: str | None
    size: int


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What every process of a run agrees on."""

    run_id: str
    seed: int
    subject: Subject
    attempt: int = 1
    judged_before: dict[str, str] = field(default_factory=dict)
    """Rows that an earlier attempt judged, by id: how their tests fail, or an empty text."""
    earlier_attempts: dict[str, int] = field(default_factory=dict)
    """How many attempts earlier runs made at a row that runs again, by its id."""
    models: dict[str, ResolvedModel] = field(default_factory=dict)
    """By the model of a row, what it was resolved to before anything was rented."""
    planned: Sequence[PlannedRow] = ()
    """Every row that was selected, with its rounds, as the attestation server is told before the first key."""
    notes: tuple[str, ...] = ()

    def reference(self, row: RowSpec) -> str | None:
        """The commit of the row's model, where it is of a hub."""
        found = self.models.get(row.model or "")
        return None if found is None else found["reference"]


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the fixtures of this process need of the run. `broker` is None where no row was selected."""

    plan: RunPlan
    worker: str
    broker: Broker | BrokerClient | None
    on_progress: Callable[[Event], None]
    update: Callable[[str, AttemptMessage], None] = lambda _nodeid, _message: None
    """Takes what is known of an attempt at a row, by node id: see `RecordStore.update`."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The tests of a run that report something: rows by node id, and how many others there are (tamper)."""

    rows: Mapping[str, RowItem]
    others: int = 0
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """The files of all tests that run, also of those with nothing to report."""
    refused: str = ""
    """Why these rows cannot run; empty where they can."""


def derivation_of(engine: Engine) -> Derivation:
    """The functions that this engine's reports are derived again with."""
    from pytest_glasshouse.attestation.reappraisal import device_faults
    from pytest_glasshouse.check.recompute import Derivation

    return Derivation(
        results=engine.results, judge=engine.judge, binding=engine.binding, devices=device_faults,
        typed_observations=engine.typed_observations,
    )  # fmt: skip


def agreed_options(options: Options) -> dict[str, object]:
    """The options that must be the same in every attempt of a run."""
    return {name: getattr(options, where) for name, where in _AGREED.items()}


def new_run_id() -> str:
    """A time and a random part: ids sort by time, and two runs that start together differ."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def new_plan(options: Options, root: Path, engine: Engine) -> tuple[RunPlan, EarlierRun | None]:
    """A new run's id, its seed (drawn unless given) and what it judges; or the plan of the run to resume, and that run."""
    from pytest_glasshouse.report.environment import subject

    if options.resume is not None:
        return _resumed(options, root, engine)
    seed = options.seed
    plan = RunPlan(
        run_id=new_run_id(),
        seed=secrets.randbelow(2**31) if seed is None else seed,
        subject=subject(root),
    )
    return plan, None


def with_tests(subject: Subject, root: Path, selected: Selected) -> Subject:
    """The subject; it is dirty also where a test file that runs is in no commit."""
    from pytest_glasshouse.report.environment import uncommitted_tests

    uncommitted = subject.get("gitCommit") is not None and uncommitted_tests(root, selected.files)
    return {**subject, "dirty": True} if uncommitted else subject


def _resumed(options: Options, root: Path, engine: Engine) -> tuple[RunPlan, EarlierRun]:
    """The plan of the run to resume: its id and seed, and the rows that were judged."""
    from pytest_glasshouse.report.environment import subject
    from pytest_glasshouse.run.records import failure_of
    from pytest_glasshouse.run.resume import read

    reports = options.report.parent if options.report is not None else options.reports(root)
    earlier = read(str(options.resume), reports, environ=os.environ, derivation=derivation_of(engine))
    if options.seed not in (None, earlier.seed):
        raise ConfigurationError(
            f"--glasshouse-seed {options.seed}: run {earlier.run_id} has seed {earlier.seed}; give that one, or none"
        )
    attempt = len(earlier.attempts) + 1
    plan = RunPlan(
        run_id=earlier.run_id,
        seed=earlier.seed if earlier.seed is not None else secrets.randbelow(2**31),
        subject=subject(root),
        attempt=attempt,
        judged_before={row_id: failure_of(record, options) for row_id, record in earlier.records.items()},
        earlier_attempts={row_id: len(entries) for row_id, entries in earlier.unjudged.items()},
        notes=(f"attempt {attempt} of this run: {counted(len(earlier.records), 'row')} kept as judged before",),
    )
    return plan, earlier
