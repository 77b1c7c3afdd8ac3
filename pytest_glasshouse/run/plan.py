"""What a run is before anything starts: its plan, the tests it selected, and what each process needs of it.

A plan is new, or that of a run that goes on. It refuses to start anything.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.run.engine import Engine, Event, Grants
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.resume import Earlier

#: The options that decide what rows do and how they are judged, by name and by where `Options` has them.
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
    "strict-memory": "strict_memory",
    "model": "model",
}


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What every process of a run agrees on."""

    run_id: str
    seed: int
    subject: dict[str, Any] = field(default_factory=dict)
    attempt: int = 1
    kept: dict[str, str] = field(default_factory=dict)
    """Rows that an earlier attempt judged, by id: how their tests fail, or nothing."""
    tried: dict[str, int] = field(default_factory=dict)
    """How often earlier attempts of the run have tried a row that runs again, by its id."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What the fixtures of this process need of the run."""

    plan: RunPlan
    worker: str
    grants: Grants
    on_progress: Callable[[Event], None]
    keep: Callable[[str, dict[str, Any]], None] = lambda _nodeid, _record: None
    """Takes what is known of an attempt at a row, by node id: that it was begun, what it has so far, its record."""


@dataclass(frozen=True, kw_only=True)
class Selected:
    """The tests of a run that have something to report: rows by node id, and whether there are others (tamper)."""

    rows: Mapping[str, RowItem]
    others: int = 0
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """The files of all tests that run, also of those with nothing to report."""
    refused: str = ""
    """Why these rows cannot run; empty where they can."""


def derivation_of(engine: Engine) -> Derivation:
    """What this engine's reports are derived again with."""
    from pytest_glasshouse.check.recompute import Derivation

    return Derivation(results=engine.results, judge=engine.judge, binding=engine.binding)


def agreed(options: Options) -> dict[str, Any]:
    """What every attempt of a run has to ask for alike."""
    return {name: getattr(options, where) for name, where in _AGREED.items()}


def new_run_id() -> str:
    """Time and chance: sorts by time, and two runs that start together differ."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def new_plan(options: Options, root: Path, engine: Engine) -> tuple[RunPlan, Earlier | None]:
    """A new run's id, its seed (drawn unless given) and what it judges; or the plan of a run that goes on, and that run."""
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


def with_tests(subject: Mapping[str, Any], root: Path, selected: Selected) -> dict[str, Any]:
    """The subject, dirty also where a test file that runs is in no commit."""
    from pytest_glasshouse.report.environment import uncommitted_tests

    untold = subject.get("gitCommit") is not None and uncommitted_tests(root, selected.files)
    return {**subject, "dirty": True} if untold else dict(subject)


def _resumed(options: Options, root: Path, engine: Engine) -> tuple[RunPlan, Earlier]:
    """The plan of a run that goes on: its id and seed, and the rows that stay."""
    from pytest_glasshouse.report.environment import subject
    from pytest_glasshouse.run.records import failure_of
    from pytest_glasshouse.run.resume import read

    reports = options.report.parent if options.report is not None else root / "reports"
    earlier = read(str(options.resume), reports, environ=os.environ, derivation=derivation_of(engine))
    if options.seed not in (None, earlier.seed):
        raise ConfigurationError(f"--glasshouse-seed {options.seed}: run {earlier.run_id} has seed {earlier.seed}")
    attempt = len(earlier.attempts) + 1
    plan = RunPlan(
        run_id=earlier.run_id,
        seed=earlier.seed if earlier.seed is not None else secrets.randbelow(2**31),
        subject=subject(root),
        attempt=attempt,
        kept={row_id: failure_of(record, options) for row_id, record in earlier.records.items()},
        tried={row_id: len(entries) for row_id, entries in earlier.tried.items()},
        notes=(f"attempt {attempt} of this run: {len(earlier.records)} row(s) kept as they were judged before",),
    )
    return plan, earlier
