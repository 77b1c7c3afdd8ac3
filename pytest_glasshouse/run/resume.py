"""The run to resume: what an earlier attempt left, read from its run directory or its report.

This module refuses to resume anything but the same run: the same rows, provider and subject, since every finished row was
signed with them. It resumes a run of this account only: a directory whose lines carry its tags, or a report that its key
sealed and in which `check` finds no fault. Figures of another account are never signed anew, and nothing is
written where another account wants it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from pytest_glasshouse.analysis.fields import ExcludedRecord, MeasuredRecord, NullRecord, SealedRecord, StartedAttempt
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, ReportError
from pytest_glasshouse.report.attempts import attempt_entry, lost_attempt_entry, standing_record
from pytest_glasshouse.run.attempt_history import (
    NOT_STARTED,
    PLAN,
    AttemptHistory,
    is_judged,
    outcome_of,
    reason_of,
)
from pytest_glasshouse.run.options import order_named
from pytest_glasshouse.wire.folder import expanded
from pytest_glasshouse.wire.printable import counted, printable

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import Record, RowRecord
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.fields import Report, RunAttempt, Subject
    from pytest_glasshouse.report.row_journal import RowJournal
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.cleanup_status import CleanupStatus

#: The attempts at each row, by row id.
AttemptsByRow: TypeAlias = Mapping[str, Sequence[StartedAttempt]]


class RowWork(TypedDict):
    """What a row does, as far as a report shows it."""

    order: str
    rounds: int
    seconds: float | None
    steps: int | None
    model: str | None


@dataclass(frozen=True, kw_only=True)
class EarlierAllocation:
    """An allocation that the ledger or report of an earlier attempt names. `status` and `reason` are the report's."""

    provider: str
    name: str
    instance_id: str | None
    listed: bool = False
    status: CleanupStatus | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """The run that is resumed. `records` are its judged rows by row id; `rows` are all its rows, name by row id.

    `options` are those that are known (`plan.agreed_options`). `work` is what a report shows that each row did, by row id; a
    directory has none, and needs none, since it knows every option. `unjudged` are the attempts at the rows that run again.
    `models` is what the models of rows were resolved to, `repo@commit` by the name that the rows have.
    """

    run_id: str
    seed: int | None
    subject: Subject
    provider: str
    report: Path
    records: Mapping[str, Record]
    attempts: tuple[RunAttempt, ...]
    rows: Mapping[str, str]
    options: Mapping[str, object]
    work: Mapping[str, RowWork] = field(default_factory=dict)
    allocations: tuple[EarlierAllocation, ...] = ()
    unjudged: AttemptsByRow = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)


def find(named: str, reports: Path) -> Path:
    """The run directory, or the report, that `named` means: a path to either, or the id of a run that left one in `reports`."""
    given = expanded(named)
    for path in (given, reports / f"{named}.run", reports / f"{named}.json"):
        if (path / PLAN).is_file() or (path.is_file() and path.suffix == ".json"):
            return path
    found = [path for path in sorted(reports.glob("*.json")) if _run_id_of_report(path) == named]
    if len(found) == 1:
        return found[0]
    several = f" ({', '.join(path.name for path in found)} are all reports of that run: name one)" if found else ""
    raise ConfigurationError(
        f"expected a run id, a run directory (.run) or a report (.json); in {reports} there is "
        f"neither {printable(named)}.run nor the report of a run of that id{several}"
    )


def _run_id_of_report(report: Path) -> str | None:
    """The id of the run whose report a file is; None where it is none."""
    from pytest_glasshouse.report.bundle import parse_report, read_report

    try:
        document = parse_report(read_report(report))
    except (IntegrityError, ReportError):
        return None
    run_id = document.get("runId") if isinstance(document, dict) else None
    return run_id if isinstance(run_id, str) else None


def read(named: str, reports: Path, *, environ: Mapping[str, str], derivation: Derivation | None = None) -> EarlierRun:
    """What the run left: its directory if it was killed, its report if it ended. Raises `ConfigurationError`.

    A report is derived again with `derivation`; a fault in it is one of the refusals.
    """
    path = Path(named)
    try:
        path = find(named, reports)
        return _of_directory(path, environ) if path.is_dir() else _of_report(path, environ, derivation)
    except (ConfigurationError, ReportError, IntegrityError) as error:
        raise ConfigurationError(f"--glasshouse-resume {printable(named)}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise ConfigurationError(f"--glasshouse-resume {printable(named)}: {printable(path)} cannot be read ({why})") from error


def refuse_another_run(
    earlier: EarlierRun, *, provider: str, subject: Subject, rows: Sequence[RowSpec], options: Mapping[str, object]
) -> None:
    """Raise `ConfigurationError` unless this is the same run going on; `options` are `plan.agreed_options`."""
    if provider != earlier.provider:
        raise ConfigurationError(
            f"--glasshouse-resume: the run was on provider {earlier.provider}, and this one is on {provider}; give "
            f"--glasshouse-provider {earlier.provider}, or start a new run"
        )
    if subject != earlier.subject:
        raise ConfigurationError(
            f"--glasshouse-resume: run {earlier.run_id} judges {_subject(earlier.subject)}, and here is {_subject(subject)}: "
            "start a new run"
        )
    different = [
        f"--glasshouse-{name} ({_shown(earlier.options[name])}; here {_shown(value)})"
        for name, value in options.items()
        if name in earlier.options and earlier.options[name] != value
    ]
    different = different or [text for row in rows if (text := _different_work(earlier, row))]
    if different:
        raise ConfigurationError(
            f"--glasshouse-resume: run {earlier.run_id} was started with other options: {', '.join(different)}. Give the same "
            "options, or start a new run"
        )
    _refuse_other_rows(earlier, rows)


def _refuse_other_rows(earlier: EarlierRun, rows: Sequence[RowSpec]) -> None:
    now = {row.row_id for row in rows}
    if gone := sorted(set(earlier.rows) - now):
        raise ConfigurationError(f"--glasshouse-resume: of the run and not selected now: {', '.join(gone)}; select the same rows")
    if new := sorted(now - set(earlier.rows)):
        raise ConfigurationError(f"--glasshouse-resume: selected now and not of the run: {', '.join(new)}; select the same rows")


def _different_work(earlier: EarlierRun, row: RowSpec) -> str:
    """How a row of the run differs from the row that has its name now; empty where it does not, or that is not known."""
    known = [] if row.row_id in earlier.rows else [row_id for row_id, name in earlier.rows.items() if name == row.name]
    if len(known) != 1 or known[0] not in earlier.work:
        return ""
    was = earlier.work[known[0]]
    now = RowWork(order=row.order, rounds=row.rounds, seconds=row.target_s, steps=row.steps, model=row.model)
    pairs = {name: (value, now.get(name)) for name, value in was.items()}
    found = [f"{name} {_shown(before)}; here {_shown(after)}" for name, (before, after) in pairs.items() if before != after]
    return f"row {row.name} ({', '.join(found)})" if found else ""


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "given" if value else "none given"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _subject(subject: Subject) -> str:
    commit = subject.get("gitCommit")
    return f"{subject.get('name')} at {commit[:12] if commit else 'no commit'}{' with changes' if subject.get('dirty') else ''}"


def _of_directory(given: Path, environ: Mapping[str, str]) -> EarlierRun:
    from pytest_glasshouse.broker.lease_ledger import LEDGER
    from pytest_glasshouse.report.row_journal import RowJournal
    from pytest_glasshouse.report.run_directory import check_run_directory, read_tagged, read_unverified
    from pytest_glasshouse.report.run_key import TagKey, run_key

    path = check_run_directory(given)
    run_id = _checked_run_id(read_unverified(path / PLAN).get("runId"))
    proof = TagKey(run_key(environ, run_id), run_id)
    plan = read_tagged(path / PLAN, proof)
    history = AttemptHistory(path, proof)
    records, unjudged = _rows_of_directory(RowJournal(path, proof), history, plan.get("tried", {}))
    return EarlierRun(
        run_id=plan["runId"],
        seed=plan["seed"],
        subject=plan["subject"],
        provider=plan["provider"],
        report=path.parent / Path(plan["report"]).name,
        records=records,
        attempts=tuple(history.attempts()),
        rows=dict(plan["rows"]),
        options=dict(plan["options"]),
        allocations=tuple(_leases(path / LEDGER)),
        unjudged=unjudged,
        models=dict(plan.get("models", {})),
    )


def _rows_of_directory(
    journal: RowJournal, history: AttemptHistory, before: AttemptsByRow
) -> tuple[dict[str, Record], AttemptsByRow]:
    """The records of the judged rows, and the attempts at the others; `before` are the attempts of runs before that one."""
    # A line is a record with the name of its attempt, or with the row's id where an earlier run of pytest judged it.
    lines: list[Any] = journal.lines()
    last: dict[str, Record] = {each.get("rowId") or each["record"]["rowId"]: each for each in lines}
    by_attempt: dict[str, Record] = {each.get("attempt") or each["record"]["rowId"]: each for each in lines}
    begun: dict[str, list[tuple[StartedAttempt, Record | None]]] = {}
    for each in history.begun_last():
        record = by_attempt.get(each["attempt"] or each["rowId"])
        left = lost_attempt_entry() if record is None else attempt_entry(record)
        begun.setdefault(each["rowId"], []).append(({"startedAt": each["at"] or None, **left}, record))
    records = {row_id: each for row_id, each in last.items() if row_id not in begun and is_judged(each)}
    unjudged = {row_id: list(entries) for row_id, entries in before.items() if row_id not in begun}
    for row_id, found in begun.items():
        every = [*((each, None) for each in before.get(row_id, ())), *found]
        if any(record is not None and is_judged(record) for _, record in found):
            records[row_id] = standing_record(every)
        else:
            unjudged[row_id] = [each for each, _ in every]
    return records, unjudged


def _checked_run_id(run_id: object) -> str:
    """A run id, which becomes a part of paths."""
    from pytest_glasshouse.report.run_key import RUN_ID

    if not isinstance(run_id, str) or RUN_ID.fullmatch(run_id) is None:
        raise ConfigurationError("expected a run id in it, saw none")
    return run_id


def _document_of(path: Path, environ: Mapping[str, str], derivation: Derivation | None) -> Report:
    """A report that this account made: sealed by the run's own key, and free of faults."""
    from pytest_glasshouse.check.check import check_bytes, read_document
    from pytest_glasshouse.report.run_key import run_key
    from pytest_glasshouse.wire.tokens import public_text

    data, document = read_document(path, derivation=derivation)
    key = run_key(environ, _checked_run_id(document["runId"]))
    if document["keys"]["report"] != public_text(key.public_key()):
        raise ConfigurationError(
            f"{path} is not sealed by this account's key: resume a run where it was made, or with the GLASSHOUSE_SIGNING_KEY it "
            "was made with"
        )
    faults = check_bytes(data, derivation=derivation).faults
    if faults:
        raise ConfigurationError(f"{path} has {counted(len(faults), 'fault')}, first {faults[0]}; start a new run")
    return document


def _of_report(path: Path, environ: Mapping[str, str], derivation: Derivation | None) -> EarlierRun:
    document = _document_of(path, environ, derivation)
    records: list[Record] = [
        *(MeasuredRecord(list="rows", record=row) for row in document["rows"]),
        *(SealedRecord(list="sealedRows", record=row) for row in document.get("sealedRows", ())),
        *(NullRecord(list="nullRows", record=row) for row in document["nullRows"]),
        *(ExcludedRecord(list="excludedResults", record=row) for row in document["excludedResults"]),
    ]
    for each in records:
        each["record"].pop("seal", None)
    begun = [each for each in records if reason_of(each) != NOT_STARTED]
    first: RunAttempt = {
        "attempt": 1,
        "startedAt": document["createdAt"],
        "kept": [],
        "begun": [each["record"]["rowId"] for each in begun],
        "finished": [{"rowId": each["record"]["rowId"], "outcome": outcome_of(each)} for each in begun],
    }
    return EarlierRun(
        run_id=document["runId"],
        seed=document["methodology"]["seed"],
        subject=document["subject"],
        provider=document["methodology"]["provider"],
        report=path,
        records={each["record"]["rowId"]: each for each in records if is_judged(each)},
        attempts=tuple(document.get("attempts") or [first]),
        rows={each["record"]["rowId"]: each["record"]["name"] for each in records},
        options={
            "order": order_named(document["methodology"]["order"]),
            "max-overhead": document["methodology"]["maxOverheadPct"],
            "fixed-order": any(each["record"].get("fixedOrder") for each in records),
        },
        work={each["record"]["rowId"]: _work_of(each["record"]) for each in records},
        allocations=tuple(
            EarlierAllocation(
                provider=each["provider"],
                name=each["name"],
                instance_id=each["providerInstanceId"],
                status=each["status"],
                reason=each["reason"],
            )
            for each in document["cleanup"]["allocations"]
        ),
        unjudged={each["record"]["rowId"]: _attempts_in(each) for each in records if not is_judged(each)},
        models={name: reference for each in reversed(records) for name, reference in _model_of(each["record"])},
    )


def _model_of(row: RowRecord) -> Iterator[tuple[str, str]]:
    """What a row's model was resolved to, where it was one of a hub and the row came that far."""
    observation: Mapping[str, Any] = row.get("observation") or {}
    name, material = observation.get("plan", {}).get("modelId"), observation.get("material", {})
    repo, commit = material.get("modelId"), material.get("facts", {}).get("revision")
    if name and repo and commit and not material.get("standIn"):
        yield name, f"{repo}@{commit}"


def _attempts_in(record: Record) -> list[StartedAttempt]:
    """The attempts that a report shows at a row that was never judged; a row that was not started has none."""
    found: list[Any] = [*(record["record"].get("attempts") or [])] or [{"startedAt": None, **attempt_entry(record)}]
    for each in found:
        each.pop("attempt", None)
        each.pop("stands", None)
    return [each for each in found if each.get("reason") != NOT_STARTED]


def _work_of(row: RowRecord) -> RowWork:
    seconds, steps = row.get("targetSec"), row.get("stepBudget")
    return RowWork(order=row["order"], rounds=row["rounds"], seconds=seconds, steps=steps, model=row["modelId"])


def _leases(ledger: Path) -> Iterator[EarlierAllocation]:
    """Every allocation that may have existed. The directory of the ledger was checked to be this account's."""
    from pytest_glasshouse.broker.lease_ledger import read as read_ledger

    for lease in read_ledger(ledger)[0].values():
        if not lease.void:
            yield EarlierAllocation(
                provider=lease.provider,
                name=lease.name,
                instance_id=min(lease.instance_ids, default=None),
                listed=lease.seen_listed,
            )
