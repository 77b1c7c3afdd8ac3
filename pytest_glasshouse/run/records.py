"""A row's record for the report, from its outcome or from the error that ended its test; and why a test with it fails.

This module knows outcomes, options and errors; it refuses to know files and the terminal.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import BudgetError, ConfigurationError, GlasshouseError, InfrastructureError
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import MeasuredRecord, NullRecord, Record, SealedRecord
    from pytest_glasshouse.analysis.record import RecordSettings
    from pytest_glasshouse.observation.outcome import Ended, Outcome
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.engine import Engine
    from pytest_glasshouse.run.options import Options


def record_of(outcome: Outcome, options: Options, engine: Engine, *, seed: int, unpublishable: tuple[str, ...] = ()) -> Record:
    """The record of a row that was carried out: every invariant judged, every round's figures.

    `unpublishable` are the run's own reasons against publishing it.
    """
    from pytest_glasshouse.analysis.record import build_record

    public = dataclasses.replace(outcome, declared=_public(outcome.declared))
    return build_record(
        public,
        engine.results(outcome.observation),
        engine.judge(outcome.observation),
        dataclasses.replace(_settings(outcome.row, public.declared, options, seed), unpublishable=unpublishable),
        judge=engine.judge,
    )


def width_of(outcome: Outcome, engine: Engine) -> float | None:
    """Half the 95 % interval's width that a row's finished rounds give, in points; None where there is no interval yet.

    Its width and never its position: who sees the position may stop the row where they like it.
    """
    from pytest_glasshouse.analysis.extension import extension
    from pytest_glasshouse.analysis.figures import row_figures
    from pytest_glasshouse.analysis.row_limits import log_ratios
    from pytest_glasshouse.overhead.interval import Sampling, interval_pct

    if outcome.row.null or outcome.row.sealed:
        return None
    try:
        rounds = engine.results(outcome.observation)
        extended = extension(outcome.observation, rounds)
        sampling = Sampling(first_rounds=None if extended is None else extended.first_rounds)
        interval = interval_pct(log_ratios(row_figures(rounds)), level=0.95, sampling=sampling)
    except (GlasshouseError, ValueError):
        return None
    return None if interval is None else interval.half_width


def ended_record(row_item: RowItem, options: Options, ended: Ended, *, seed: int) -> Record:
    """The record of a row that never came to an outcome of its own."""
    from pytest_glasshouse.analysis.record import build_record
    from pytest_glasshouse.observation.outcome import Outcome

    outcome = Outcome(
        row=row_item.row,
        declared=_public(row_item.declared),
        allocation=None,
        ended=ended,
    )
    return build_record(outcome, (), (), _settings(row_item.row, outcome.declared, options, seed))


def record_of_error(row_item: RowItem, options: Options, error: BaseException, *, skipped: bool, seed: int) -> Record:
    """The record of a row whose test ended in an error before anything was recorded."""
    from pytest_glasshouse.observation.outcome import Ended

    text = without_paths(str(error))
    reason = f"{type(error).__name__}: {text}"
    if skipped:
        ended = Ended(outcome="excluded", reason=f"skipped: {text}", decision="Not run")
    elif isinstance(error, BudgetError):
        ended = Ended(outcome="excluded", reason=reason, decision="Not run; raise the budget and run it again")
    elif isinstance(error, InfrastructureError):
        ended = Ended(outcome="infrastructure", reason=reason, decision="Nothing was judged; running again is safe")
    elif isinstance(error, ConfigurationError):
        ended = Ended(outcome="error", reason=reason, decision="Change what it names and run again")
    else:
        ended = Ended(outcome="error", reason=reason, decision="Excluded from overhead calculation")
    return ended_record(row_item, options, ended, seed=seed)


def other_findings(record: Record | None, shown: str) -> tuple[str, ...]:
    """A line for each finding of the row that did not hold and that `shown`, the test's own table, does not name."""
    findings = [] if record is None else record["record"].get("findings", [])
    return tuple(
        f"  {each['finding'].upper():6}  {each['invariant']}: {printable(each['reason'], limit=2000)}"
        for each in findings
        if each["finding"] != "held" and f"{each['invariant']}:" not in shown
    )


def without_paths(text: str) -> str:
    """The first line, with absolute paths and addresses removed: an error's text may name this machine's."""
    line = (text.strip().splitlines() or [""])[0]
    return re.sub(r"(?<![\w./-])(?:~|file://|\w:\\)?/[^\s'\",;:)]+", "(path)", line)[:500]


def _settings(row: RowSpec, declared: RowSpec, options: Options, seed: int) -> RecordSettings:
    from pytest_glasshouse.analysis.record import RecordSettings

    return RecordSettings(
        margin_pct=row.margin_pct,
        seed=seed,
        leg_seconds=options.leg_seconds,
        leg_steps=options.leg_steps,
        fixed_order=options.fixed_order,
        max_overhead_pct=options.max_overhead_pct,
        overridden=_overridden(row, declared, options),
    )


def _overridden(row: RowSpec, declared: RowSpec, options: Options) -> tuple[str, ...]:
    """The options that changed the row. A dry run shortens by its provider."""
    target = "leg-seconds" if options.leg_seconds is not None else "leg-steps" if options.leg_steps is not None else "provider"
    named = {"order": "order", "rounds": "rounds", "margin_pct": "margin", "model": "model"}
    named |= {"target_s": target, "steps": target, "warmup_s": "provider"}
    changed = (name for name in named if getattr(row, name) != getattr(declared, name))
    return tuple(dict.fromkeys(named[name] for name in changed))


def _public(declared: RowSpec) -> RowSpec:
    """A declared row as it may be published: a model directory of this machine becomes its name."""
    is_there = os.path.exists if declared.sealed else os.path.isdir
    if declared.model is None or not is_there(os.path.expanduser(declared.model)):  # noqa: PTH111  (see `RowItem.of`)
        return declared
    return dataclasses.replace(declared, model=Path(os.path.expanduser(declared.model)).resolve().name)  # noqa: PTH111  (where ~ has no meaning it is no directory)


def failure_of(record: Record, options: Options) -> str:
    """Why the test of a row with this record fails; empty where it passes."""
    if record["list"] == "excludedResults":
        row = record["record"]
        reason, decision = (printable(text, limit=4000) for text in (row["reason"], row["decision"]))
        return f"{printable(row['name'])} was not measured: {row['outcome']}\nreason: {reason}\ndecision: {decision}"
    misses = list(_misses(record, options))
    name = printable(record["record"]["name"])
    return f"{name}: " + "\n".join(printable(each, limit=4000) for each in misses) if misses else ""


def _misses(record: MeasuredRecord | SealedRecord | NullRecord, options: Options) -> Iterator[str]:
    from pytest_glasshouse.analysis.row_limits import limit_of

    limit = limit_of(record["record"])
    if limit is not None and not limit.passed:
        upper = "none" if limit.upper95_pct is None else f"{limit.upper95_pct:.2f} %"
        yield (
            f"{limit.verdict.value}: expected a one-sided 95 % upper bound of at most {limit.limit_pct:g} % overhead, "
            f"saw {upper} ({limit.reason})"
        )
    if options.publishable and record["list"] in ("rows", "sealedRows") and not record["record"]["publishable"]:
        yield f"not publishable: {'; '.join(record['record']['unpublishableBecause'])}"
