"""Attempts of one run: what an earlier one left behind, which of its rows stay as they are, and the history that says so.

A row that was judged stays, good or bad. What was never judged (not started, lost, infrastructure) runs again, and the
report names every attempt it was begun in. This module refuses to resume anything but the same run: the same rows, provider
and subject, since every finished row was signed for with them. And it goes on with a run of this account only: a directory
whose lines carry its tags, or a report that its key sealed and that `check` finds free of faults. Nobody else's figures are
signed anew, and nothing is written where somebody else wants it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError, ReportError
from pytest_glasshouse.report.attempts import NEVER_JUDGED, attempt_entry, lost_attempt_entry, standing_record
from pytest_glasshouse.run.options import order_named
from pytest_glasshouse.wire.folder import expanded
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.row_journal import RowJournal
    from pytest_glasshouse.report.run_key import TagKey
    from pytest_glasshouse.rows.spec import RowSpec

PLAN, HISTORY = "plan.json", "attempts.jsonl"
#: Outcomes after which nothing was judged: these rows run again.
AGAIN = NEVER_JUDGED
#: An attempt nobody told of but its test's start.
_UNTOLD = "untold-"
_NOT_STARTED = "the run ended before this row was started"


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An earlier attempt's run. `records` are its judged rows by row id, `allocations` what its ledger or report names.

    `rows` are all its rows, name by row id; `options` is what is known of what it asked for (`run.agreed`). `work` is what a
    report says that each row did, by row id; a directory has none, and needs none, since it knows every option.
    """

    run_id: str
    seed: int | None
    subject: dict[str, Any]
    provider: str
    report: Path
    records: dict[str, dict[str, Any]]
    attempts: tuple[dict[str, Any], ...]
    rows: Mapping[str, str]
    options: Mapping[str, Any]
    work: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allocations: tuple[dict[str, Any], ...] = field(default=())
    tried: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    """What is told of the attempts at each row that runs again, by row id, as in a record's `attempts`."""


class Tried:
    """The attempts at one row in this run of pytest, in the order they began; each told by its process, some twice.

    A test's start is a second witness: of a process that died before it told of an attempt, the attempt is kept.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, dict[str, Any] | None]] = {}
        # Workers tell of attempts in a thread of the broker's, and tests start in pytest's own.
        self._lock = threading.Lock()
        self._starts = 0
        self._finished: set[str] = set()

    def start(self) -> None:
        """The row's test starts, here or in a worker."""
        with self._lock:
            self._starts += 1
            if self._starts > len(self._found):
                self._found[f"{_UNTOLD}{self._starts}"] = ("", None)

    def begin(self, told: Mapping[str, Any]) -> bool:
        """An attempt was begun; whether that is news."""
        name = told["attempt"]
        with self._lock:
            if name in self._found:
                return False
            untold = [each for each in self._found if each.startswith(_UNTOLD)]
            if untold:
                self._found = {name if each == untold[-1] else each: value for each, value in self._found.items()}
            self._found[name] = (told["at"], None)
            return True

    def keep(self, record: dict[str, Any]) -> bool:
        """What an attempt has so far, or its record; whether that is news."""
        with self._lock:
            news = self._found[record["attempt"]][1] != record
            self._found[record["attempt"]] = (record["at"], record)
            return news

    def finish(self, record: Mapping[str, Any]) -> bool:
        """An attempt has ended; whether that is news."""
        news = record["attempt"] not in self._finished
        self._finished.add(record["attempt"])
        return news

    def all(self) -> list[tuple[str, dict[str, Any] | None]]:
        """When each attempt began (nothing where nobody said), and its record if there is one."""
        return list(self._found.values())


def find(named: str, reports: Path) -> Path:
    """The run directory, or the report, that `named` means: a path to either, or the id of a run that left one in `reports`."""
    given = expanded(named)
    for path in (given, reports / f"{named}.run", reports / f"{named}.json"):
        if (path / PLAN).is_file() or (path.is_file() and path.suffix == ".json"):
            return path
    found = [path for path in sorted(reports.glob("*.json")) if _run_of(path) == named]
    if len(found) == 1:
        return found[0]
    several = f" ({', '.join(path.name for path in found)} all say that they are its report: name one)" if found else ""
    raise ConfigurationError(
        f"expected a run id, a run directory (.run) or a report (.json); in {reports} there is "
        f"neither {printable(named)}.run nor the report of a run of that id{several}"
    )


def _run_of(report: Path) -> str | None:
    """Whose report a file is; None where it is none."""
    from pytest_glasshouse.report.bundle import parse_report, read_report

    try:
        told = parse_report(read_report(report))
    except (IntegrityError, ReportError):
        return None
    run_id = told.get("runId") if isinstance(told, dict) else None
    return run_id if isinstance(run_id, str) else None


def read(named: str, reports: Path, *, environ: Mapping[str, str], derivation: Derivation | None = None) -> Earlier:
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


def refuse_another(
    earlier: Earlier, *, provider: str, subject: Mapping[str, Any], rows: Sequence[RowSpec], options: Mapping[str, Any]
) -> None:
    """Raise `ConfigurationError` unless this is the same run going on; `options` are what `run.agreed` says."""
    if provider != earlier.provider:
        raise ConfigurationError(
            f"--glasshouse-resume: the run was on provider {earlier.provider}, and this one is on {provider}"
        )
    if dict(subject) != earlier.subject:
        raise ConfigurationError(
            f"--glasshouse-resume: run {earlier.run_id} judges {_subject(earlier.subject)}, and here is {_subject(subject)}: "
            "start a new run"
        )
    other = [
        f"--glasshouse-{name} ({_given(earlier.options[name])}; here {_given(value)})"
        for name, value in options.items()
        if name in earlier.options and earlier.options[name] != value
    ]
    other = other or [told for row in rows if (told := _other_work(earlier, row))]
    if other:
        raise ConfigurationError(
            f"--glasshouse-resume: run {earlier.run_id} was started with other options: {', '.join(other)}. Give the same "
            "options, or start a new run"
        )
    _refuse_other_rows(earlier, rows)


def _refuse_other_rows(earlier: Earlier, rows: Sequence[RowSpec]) -> None:
    now = {row.row_id for row in rows}
    if gone := sorted(set(earlier.rows) - now):
        raise ConfigurationError(f"--glasshouse-resume: of the run and not selected now: {', '.join(gone)}; select the same rows")
    if new := sorted(now - set(earlier.rows)):
        raise ConfigurationError(f"--glasshouse-resume: selected now and not of the run: {', '.join(new)}; select the same rows")


def _other_work(earlier: Earlier, row: RowSpec) -> str:
    """How a row of the run differs from the one that has its name now; empty where it does not, or nobody knows."""
    known = [] if row.row_id in earlier.rows else [row_id for row_id, name in earlier.rows.items() if name == row.name]
    if len(known) != 1 or known[0] not in earlier.work:
        return ""
    was, work = earlier.work[known[0]], _work_of(row)
    told = [f"{name} {_given(was[name])}; here {_given(work[name])}" for name in work if was[name] != work[name]]
    return f"row {row.name} ({', '.join(told)})" if told else ""


def _work_of(row: RowSpec) -> dict[str, Any]:
    return {"order": row.order, "rounds": row.rounds, "seconds": row.target_s, "steps": row.steps, "model": row.model}


def _given(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return "given" if value else "none given"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _subject(subject: Mapping[str, Any]) -> str:
    commit = subject.get("gitCommit")
    return f"{subject.get('name')} at {commit[:12] if commit else 'no commit'}{' with changes' if subject.get('dirty') else ''}"


class AttemptHistory:
    """What happens in an attempt, one JSON line each in the run directory: begun, finished. A kill leaves what there was."""

    def __init__(self, directory: Path, proof: TagKey) -> None:
        from pytest_glasshouse.report.run_directory import TaggedLines

        self._directory = directory
        self._proof = proof
        self._lines = TaggedLines(directory / HISTORY, proof)

    def start(self, plan: Mapping[str, Any], *, attempt: int, at: str, kept: Sequence[str]) -> None:
        """A new attempt begins; `plan` is what every attempt of the run agrees on."""
        from pytest_glasshouse.report.run_directory import private_directory, write_tagged

        write_tagged(private_directory(self._directory) / PLAN, plan, self._proof)
        self._tell({"event": "start", "attempt": attempt, "at": at, "kept": list(kept)})

    def restore(self, attempts: Sequence[Mapping[str, Any]]) -> None:
        """Earlier attempts that only a report remembers."""
        for each in attempts:
            self._tell({"event": "start", "attempt": each["attempt"], "at": each["startedAt"], "kept": each["kept"]})
            for row_id in each["begun"]:
                self.begin(row_id)
            for told in each["finished"]:
                self._tell({"event": "finish", **told})

    def begin(self, row_id: str, *, attempt: str = "", at: str = "") -> None:
        """An attempt at a row is begun; `attempt` is what its record will be called by."""
        self._tell({"event": "begin", "rowId": row_id, "attempt": attempt, "at": at})

    def finish(self, row_id: str, outcome: str) -> None:
        """A row has its record."""
        self._tell({"event": "finish", "rowId": row_id, "outcome": outcome})

    def attempts(self) -> list[dict[str, Any]]:
        """Every attempt so far, as the report has them."""
        found: list[dict[str, Any]] = []
        for told in self._lines.read():
            if told["event"] == "start":
                started = {"attempt": told["attempt"], "startedAt": told["at"], "kept": told["kept"]}
                found.append({**started, "begun": [], "finished": []})
            elif told["event"] == "begin":
                found[-1]["begun"].append(told["rowId"])
            else:
                found[-1]["finished"].append({"rowId": told["rowId"], "outcome": told["outcome"]})
        return found

    def begun_last(self) -> list[dict[str, Any]]:
        """The attempts at rows that the last run of pytest began: `rowId`, `attempt`, `at`."""
        found: list[dict[str, Any]] = []
        for told in self._lines.read():
            if told["event"] == "start":
                found = []
            elif told["event"] == "begin":
                found.append(told)
        return found

    def _tell(self, event: Mapping[str, Any]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lines.append(event)


def outcome_of(record: Mapping[str, Any]) -> str:
    """A record's outcome in one word."""
    return str(record["record"].get("outcome", "measured"))


def stays(record: Mapping[str, Any]) -> bool:
    """Whether a row was judged: its record stays as it is."""
    told = record["record"]
    return outcome_of(record) not in AGAIN and told.get("reason") != _NOT_STARTED


def _of_directory(given: Path, environ: Mapping[str, str]) -> Earlier:
    from pytest_glasshouse.report.row_journal import RowJournal
    from pytest_glasshouse.report.run_directory import check_run_directory, read_tagged, read_unverified
    from pytest_glasshouse.report.run_key import TagKey, run_key

    path = check_run_directory(given)
    run_id = _run_id(read_unverified(path / PLAN).get("runId"))
    proof = TagKey(run_key(environ, run_id), run_id)
    plan = read_tagged(path / PLAN, proof)
    history = AttemptHistory(path, proof)
    records, tried = _tried_in(RowJournal(path, proof), history, plan)
    return Earlier(
        run_id=plan["runId"],
        seed=plan["seed"],
        subject=plan["subject"],
        provider=plan["provider"],
        report=path.parent / Path(plan["report"]).name,
        records=records,
        attempts=tuple(history.attempts()),
        rows=dict(plan["rows"]),
        options=dict(plan["options"]),
        allocations=tuple(_allocations_in(path)),
        tried=tried,
    )


def _tried_in(
    journal: RowJournal, history: AttemptHistory, plan: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Of a run directory: the records of its judged rows, and what is told of the attempts at the others; by row id."""
    lines = journal.lines()
    kept = {each.get("rowId") or each["record"]["rowId"]: each for each in lines}
    left = {each.get("attempt") or each["record"]["rowId"]: each for each in lines}
    tries: dict[str, list[tuple[dict[str, Any], dict[str, Any] | None]]] = {}
    for begun in history.begun_last():
        record = left.get(begun.get("attempt") or begun["rowId"])
        told = lost_attempt_entry() if record is None else attempt_entry(record)
        tries.setdefault(begun["rowId"], []).append(({"startedAt": begun.get("at") or None, **told}, record))
    before = {row_id: list(entries) for row_id, entries in plan.get("tried", {}).items()}
    records = {row_id: each for row_id, each in kept.items() if row_id not in tries and stays(each)}
    tried = {row_id: entries for row_id, entries in before.items() if row_id not in tries}
    for row_id, found in tries.items():
        every = [*((each, None) for each in before.get(row_id, [])), *found]
        if any(record is not None and stays(record) for _, record in found):
            records[row_id] = standing_record(every)
        else:
            tried[row_id] = [each for each, _ in every]
    return records, tried


def _run_id(told: object) -> str:
    """A run id, which becomes a part of paths."""
    from pytest_glasshouse.report.run_key import RUN_ID

    if not isinstance(told, str) or RUN_ID.fullmatch(told) is None:
        raise ConfigurationError("what is there names no run")
    return told


def _document_of(path: Path, environ: Mapping[str, str], derivation: Derivation | None) -> dict[str, Any]:
    """A report that this account made: sealed by the run's own key, and free of faults."""
    from pytest_glasshouse.check.check import check_bytes, read_document
    from pytest_glasshouse.report.run_key import run_key
    from pytest_glasshouse.wire.tokens import public_text

    data, document = read_document(path, derivation=derivation)
    key = run_key(environ, _run_id(document["runId"]))
    if document["keys"]["report"] != public_text(key.public_key()):
        raise ConfigurationError(
            f"{path} is not sealed by this account's key: a report is gone on with where its run was made, or with the "
            "GLASSHOUSE_SIGNING_KEY it was made with"
        )
    faults = check_bytes(data, derivation=derivation).faults
    if faults:
        raise ConfigurationError(f"{path} has {len(faults)} fault(s), first {faults[0]}; start a new run")
    return document


def _of_report(path: Path, environ: Mapping[str, str], derivation: Derivation | None) -> Earlier:
    document = _document_of(path, environ, derivation)
    records: list[dict[str, Any]] = [
        {"list": name, "record": {field: value for field, value in each.items() if field != "seal"}}
        for name in ("rows", "nullRows", "excludedResults")
        for each in document[name]
    ]
    judged = {each["record"]["rowId"]: each for each in records if stays(each)}
    first = {
        "attempt": 1, "startedAt": document["createdAt"], "kept": [],
        "begun": [each["record"]["rowId"] for each in records if each["record"].get("reason") != _NOT_STARTED],
        "finished": [{"rowId": each["record"]["rowId"], "outcome": outcome_of(each)} for each in records
                     if each["record"].get("reason") != _NOT_STARTED],
    }  # fmt: skip
    return Earlier(
        run_id=document["runId"],
        seed=document["methodology"]["seed"],
        subject=document["subject"],
        provider=document["methodology"]["provider"],
        report=path,
        records=judged,
        attempts=tuple(document.get("attempts") or [first]),
        rows={each["record"]["rowId"]: each["record"]["name"] for each in records},
        options={
            "order": order_named(document["methodology"]["order"]),
            "max-overhead": document["methodology"]["maxOverheadPct"],
            "fixed-order": any(each["record"].get("fixedOrder") for each in records),
        },
        work={each["record"]["rowId"]: _work_told(each["record"]) for each in records},
        allocations=tuple(
            {
                "name": each["name"],
                "instance": each["providerInstanceId"],
                "provider": each["provider"],
                "status": each["status"],
                "reason": each["reason"],
            }
            for each in document["cleanup"]["allocations"]
        ),
        tried={each["record"]["rowId"]: _tried_told(each) for each in records if not stays(each)},
    )


def _tried_told(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a report tells of the attempts at a row that was never judged; that it was not started is none."""
    told = record["record"]
    entries = told.get("attempts") or [{"startedAt": None, **attempt_entry(dict(record))}]
    numbered = ("attempt", "stands")
    return [{name: value for name, value in each.items() if name not in numbered} for each in entries
            if each.get("reason") != _NOT_STARTED]  # fmt: skip


def _work_told(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "order": record["order"], "rounds": record["rounds"], "seconds": record.get("targetSec"),
        "steps": record.get("stepBudget"), "model": record["modelId"],
    }  # fmt: skip


def _allocations_in(directory: Path) -> Iterator[dict[str, Any]]:
    """Every allocation that may have existed, by the run's lease ledger, and whether a listing showed it while it ran."""
    from pytest_glasshouse.broker.lease_ledger import LEDGER, read

    for lease in read(directory / LEDGER)[0].values():
        if not lease.void:
            instance = max(lease.instance_ids, default=None)
            yield {"name": lease.name, "instance": instance, "listed": lease.seen_listed, "provider": lease.provider}
