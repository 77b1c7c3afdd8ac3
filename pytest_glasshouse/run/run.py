"""One run: what was selected, what came of it, and how it ends. It lives in the only process, or in xdist's controller.

It promises that allocations are ended before anything else, that every row that was asked for is in the report once, and
that the report is written also after an interrupt. It refuses to judge a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import (
    ConfigurationError,
    CredentialsError,
    GlasshouseError,
    InfrastructureError,
    RedactionError,
    ReportError,
)
from pytest_glasshouse.run.exit_codes import (
    EXIT_BUDGET,
    EXIT_CLEANUP,
    EXIT_INFRASTRUCTURE,
    EXIT_INTERNAL_ERROR,
    EXIT_OK,
    EXIT_REDACTION,
    EXIT_REPORT,
    EXIT_TESTS_FAILED,
    EXIT_USAGE,
)
from pytest_glasshouse.run.options import order_name
from pytest_glasshouse.run.plan import RunPlan, Selected, agreed, derivation_of, with_tests
from pytest_glasshouse.run.resume import AttemptHistory, Tried, outcome_of, refuse_another, stays
from pytest_glasshouse.run.signals import Signals
from pytest_glasshouse.tamper.result import TamperResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.publish.withheld_records import PublishableReport
    from pytest_glasshouse.report.document import AllocationCleanup
    from pytest_glasshouse.report.row_journal import RowJournal
    from pytest_glasshouse.rows.overrides import RowItem
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.run.engine import BrokerLike, CleanupLike, Engine
    from pytest_glasshouse.run.live_line import Live
    from pytest_glasshouse.run.options import Options
    from pytest_glasshouse.run.resume import Earlier


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """What a run needs of whoever carries it out: plain values, and three calls back."""

    options: Options
    root: Path
    """The project's directory: reports go below it, and its commit is the subject."""
    engine: Engine
    live: Live
    ask: Callable[[BrokerLike], None]
    """Returns where renting is agreed to; raises `ConfigurationError` or `BudgetError` where it is not."""
    row_finished: Callable[[str, dict[str, Any]], None]
    """Takes the name of the list a record is in, and the record."""
    report_written: Callable[[tuple[Path, ...]], None]
    earlier: Earlier | None = None
    """The run that this one goes on with."""


class NoGrants:
    """Where no row was selected there is nothing to acquire."""

    def acquire(self, row: RowSpec, *, worker: str) -> Any:
        raise InfrastructureError(f"row {row.name!r} was not selected when the run was opened (worker {worker})")

    def release(self, grant: Any, *, worker: str) -> None:
        del grant, worker


class Run:
    """The run's broker, row journal and end. `open` raises `ConfigurationError` before anything is started."""

    def __init__(self, session: Session, plan: RunPlan, selected: Selected) -> None:
        from pytest_glasshouse.report.run_key import TagKey, run_key
        from pytest_glasshouse.wire.whole_file import is_passed_through

        self._session = session
        self.options = session.options
        self.plan = plan
        self.selected = selected
        self.earlier = session.earlier
        default = session.root / "reports" / f"{plan.run_id}.json" if self.earlier is None else self.earlier.report
        self.report_path = self.options.report or default
        beside = default if is_passed_through(self.report_path) else self.report_path
        self.directory = beside.parent / f"{plan.run_id}.run"
        self.key = run_key(os.environ, plan.run_id)
        self.proof = TagKey(self.key, plan.run_id)
        self.engine = session.engine
        self.live = session.live
        self.broker: BrokerLike | None = None
        self.cleanup: CleanupLike | None = None
        self._earlier_seen: tuple[AllocationCleanup, ...] | None = None
        self.records: dict[str, dict[str, Any]] = {
            nodeid: self.earlier.records[each.row.row_id]
            for nodeid, each in selected.rows.items()
            if self.earlier is not None and each.row.row_id in self.earlier.records
        }
        self.kept = frozenset(self.records)
        self.history = AttemptHistory(self.directory, self.proof)
        self._journal: RowJournal | None = None
        self.tamper: list[dict[str, Any]] = []
        self.tamper_shown: list[dict[str, Any]] = []
        self.published: tuple[Path, ...] = ()
        self.withheld: tuple[str, ...] = ()
        self._unspeakable: list[str] = []
        self.replaced = False
        self.trouble: list[str] = []
        self.begun: list[str] = []
        self._tried = {nodeid: Tried() for nodeid in selected.rows}
        self._failed: set[str] = set()
        self.outstanding: tuple[dict[str, Any], ...] = ()
        self.unasked = ""
        self._outstanding: dict[str, list[dict[str, Any]]] = {}
        self._signals = Signals(self._on_signal)
        self._interrupted = ""

    @classmethod
    def open(cls, session: Session, plan: RunPlan, selected: Selected) -> Run:
        """Check what can be checked before the first row, and make the broker where there are rows. Rents nothing.

        Raises `ConfigurationError`, `BudgetError` where the estimate is above the budget, and `InfrastructureError` where a
        provider cannot be asked.
        """
        from pytest_glasshouse.report.paths import check_writable
        from pytest_glasshouse.report.run_directory import check_run_directory
        from pytest_glasshouse.run.progress_file import PROGRESS
        from pytest_glasshouse.wire.folder import check_umask

        if selected.refused:
            raise ConfigurationError(selected.refused)
        check_umask()
        plan = dataclasses.replace(plan, subject=with_tests(plan.subject, session.root, selected))
        rows = [each.row for each in selected.rows.values()]
        run = cls(session, plan, selected)
        if run.earlier is not None:
            refuse_another(
                run.earlier, provider=run.options.provider, subject=plan.subject, rows=rows, options=agreed(run.options)
            )
        check_writable(run.report_path, html=run.options.html)
        if os.path.lexists(run.directory):
            check_run_directory(run.directory)
            run.history.attempts()
        run.refuse_names()
        run._check_material(rehearsed=False)
        if rows:
            run.broker = run.engine.broker(run.options, rows, run_id=plan.run_id, run_dir=run.directory, tell=run.live.tell_boot)
            run.broker.plan(rows)
            if run.broker.rents:
                run._check_material(rehearsed=True)
                session.ask(run.broker)
            try:
                run._remember()
            except OSError as error:
                if run.earlier is None:
                    run._forget()
                raise ConfigurationError(
                    f"the run directory {run.directory} cannot be written ({error.strerror or error}); nothing was started"
                ) from None
            run.live.also_to(run.directory / PROGRESS)
            run.live.money = run.broker.spent_usd
            run._signals.install()
        return run

    def _check_material(self, *, rehearsed: bool) -> None:
        """See `Rooms.check_material`; a test's engine trains nothing."""
        from pytest_glasshouse.run.engine import RowEngine

        if isinstance(self.engine, RowEngine):
            to_run = [each for nodeid, each in self.selected.rows.items() if nodeid not in self.kept]
            self.engine.check_material([(each.row, each.model) for each in to_run], seed=self.plan.seed, rehearsed=rehearsed)

    def refuse_names(self) -> None:
        """Raise `ConfigurationError` for a name that could not be published, while nothing is lost by it."""
        from pytest_glasshouse.report.paths import machine_paths
        from pytest_glasshouse.report.redaction import environment_taint
        from pytest_glasshouse.run.private_names import refuse_forbidden

        taint = (*environment_taint(os.environ), *machine_paths(self.directory))
        rows = self.selected.rows
        unstarted = [self._without_record(nodeid, row_item) for nodeid, row_item in rows.items()]
        frame = self._make()(unstarted[:1])
        refuse_forbidden(
            rows,
            self.options,
            report=self.report_path,
            document={**frame, "excludedResults": [each["record"] for each in unstarted]},
            taint=taint,
        )

    # -- while rows run

    def begin(self, nodeid: str) -> None:
        """A test with something to report starts."""
        if nodeid in self.selected.rows and nodeid not in self.kept:
            if nodeid not in self.begun:
                self.begun.append(nodeid)
            self._tried[nodeid].start()

    def take(self, nodeid: str, payload: str, *, worker: str = "") -> None:
        """Keep what a finished test reported, every attempt at its row, on disk before anything else happens."""
        told = json.loads(payload)
        self.tamper += told["tamper"]
        self._outstanding[worker] = told["outstanding"]
        for record in told["rows"]:
            unspeakable = record.pop("unspeakable", "")
            if unspeakable:
                self._unspeakable.append(f"row {record['record']['name']}: what was observed is no JSON ({unspeakable})")
            self.keep(nodeid, record)
            if "list" in record and nodeid in self._tried and self._tried[nodeid].finish(record):
                with self._on_disk():
                    self.history.finish(record["record"]["rowId"], outcome_of(record))
                self._session.row_finished(record["list"], record["record"])

    def keep(self, nodeid: str, record: dict[str, Any]) -> None:
        """Remember an attempt at a row, on disk too: that it was begun, the rounds it has finished so far, its record."""
        tried = self._tried.get(nodeid)
        if tried is None:
            return
        with self._on_disk():
            if tried.begin(record):
                self.history.begin(self.selected.rows[nodeid].row.row_id, attempt=record["attempt"], at=record["at"])
            if "list" in record and tried.keep(record):
                self.journal.append(record)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        """A write that would outlive a kill. Where it cannot be made the run goes on, says so once, and still reports."""
        try:
            yield
        except OSError as error:
            told = f"{self.directory} cannot be written ({error.strerror or error}): had the run been killed, rows would be lost"
            if told not in self.trouble:
                self.trouble.append(told)

    @property
    def journal(self) -> RowJournal:
        """The rows on disk. Made before the first row runs: its lines are one chain, and two threads add to it."""
        from pytest_glasshouse.report.row_journal import RowJournal

        if self._journal is None:
            self._journal = RowJournal(self.directory, self.proof)
        return self._journal

    def failed(self, nodeid: str) -> None:
        """A test, of ours or not, failed in some phase."""
        self._failed.add(nodeid)

    # -- the end

    def end_allocations(self) -> None:
        """End what was rented. Nothing else of the end happens before this."""
        if self.broker is not None and self.cleanup is None:
            self.cleanup = self.broker.end_all()

    def finish(self, exitstatus: int) -> int:
        """Write the report and say with what code the run ends."""
        self.live.close()
        if not self.begun and not self.tamper and not self.kept:
            self._forget()
            return exitstatus if exitstatus or not self.selected.rows else EXIT_TESTS_FAILED
        code = self._report() or exitstatus
        if self.broker is not None and self.broker.over_budget:
            self.trouble.append(self.broker.over_budget)
            code = EXIT_BUDGET
        if code == EXIT_TESTS_FAILED and self._only_infrastructure():
            code = EXIT_INFRASTRUCTURE
        if code == EXIT_TESTS_FAILED and self._only_credentials():
            code = EXIT_USAGE
        if code == EXIT_OK and ((self.selected.rows and not self.measured) or self.outstanding):
            code = EXIT_TESTS_FAILED
        if code == EXIT_OK and (undone := self._undone()):
            self.trouble.append(f"not green, whatever their tests say: {', '.join(undone)}")
            code = EXIT_TESTS_FAILED
        if not self.cleanup_is_proven:
            return EXIT_CLEANUP
        if self.published and not self.withheld:
            self._forget()
        return code

    def close(self) -> None:
        """Give signals and descriptors back. Harmless when called twice."""
        self._signals.restore()
        self.live.close()

    @property
    def measured(self) -> int:
        """Rows with both legs measured and every finding held."""
        return sum(each["list"] != "excludedResults" for each in self.records.values())

    @property
    def unjudged(self) -> int:
        """Rows that a later attempt would run."""
        return sum(not stays(each) for each in self.records.values())

    def _undone(self) -> list[str]:
        """Rows that are not green though their tests are: something broke, or a later attempt was to make up for it."""
        from pytest_glasshouse.report.attempts import attempt_entry, has_broken
        from pytest_glasshouse.run.records import failure_of

        undone = []
        for each in self.records.values():
            told = each["record"]
            several = "attempts" in told and failure_of(each, self.options)
            wrong = told.get("outcome", "measured") not in ("measured", "excluded")
            if several or wrong or any(has_broken(tried) for tried in told.get("attempts", [attempt_entry(each)])):
                undone.append(told["name"])
        return undone

    @property
    def cleanup_is_proven(self) -> bool:
        """Whether nothing of this run, its earlier attempts too, can still exist."""
        if self.broker is None:
            return True
        if any(each.status != "proven" for each in self._earlier_cleanups()):
            return False
        return self.cleanup is not None and self.cleanup.status in ("proven", "nothing-rented")

    @property
    def simulated(self) -> bool:
        """Whether a provider stood in for the real one."""
        return self.broker is not None and bool(self.broker.simulated)

    @property
    def by_hand(self) -> Iterator[str]:
        """What a person can do about each allocation that may still exist."""
        from pytest_glasshouse.providers.registry import RENTING, manual

        for each in () if self.cleanup is None else self.cleanup.allocations:
            name = each.get("provider")
            if each["status"] != "proven" and name in RENTING:
                yield f"{each['name']}: {each['detail']}"
                yield f"  glasshouse reap --provider {name} --run {self.plan.run_id}; or {manual(name, each.get('instanceId'))}"

    @property
    def leftovers(self) -> str:
        """The allocations that may still exist, by name."""
        told = () if self.cleanup is None else self.cleanup.allocations
        return ", ".join(str(each["name"]) for each in told if each["status"] != "proven") or "an allocation of this run"

    def _remember(self) -> None:
        """Write down what a later attempt has to agree with, before the first row."""
        _ = self.journal
        earlier = self.earlier
        if earlier is not None:
            if not self.history.attempts():
                self.history.restore(earlier.attempts)
            for row_id, record in earlier.records.items():
                self.journal.append({**record, "rowId": row_id})
        plan = {
            "runId": self.plan.run_id,
            "seed": self.plan.seed,
            "subject": self.plan.subject,
            "provider": self.options.provider,
            "options": agreed(self.options),
            "report": str(self.report_path.absolute()),
            "rows": {each.row.row_id: each.row.name for each in self.selected.rows.values()},
            "tried": {} if earlier is None else {row_id: list(entries) for row_id, entries in earlier.tried.items()},
        }
        kept = [self.selected.rows[nodeid].row.row_id for nodeid in sorted(self.kept)]
        # A kill between a row's record and the line that says so leaves the record, which is what counts.
        said = {told["rowId"] for each in self.history.attempts() for told in each["finished"]}
        for nodeid in sorted(self.kept):
            if self.selected.rows[nodeid].row.row_id not in said:
                self.history.finish(self.selected.rows[nodeid].row.row_id, outcome_of(self.records[nodeid]))
        self.history.start(plan, attempt=self.plan.attempt, at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", kept=kept)

    def _on_signal(self, name: str) -> None:
        self._interrupted = name
        if self.broker is not None:
            self.broker.signal_end()

    def _only_infrastructure(self) -> bool:
        outcomes = [self.records.get(nodeid, {"record": {}})["record"].get("outcome") for nodeid in self._failed]
        return bool(outcomes) and set(outcomes) == {"infrastructure"}

    def _only_credentials(self) -> bool:
        """Whether a key that may not do this is all that failed: no retry mends it, its owner does."""
        reasons = [str(self.records.get(nodeid, {"record": {}})["record"].get("reason")) for nodeid in self._failed]
        return bool(reasons) and all(each.startswith(f"{CredentialsError.__name__}: ") for each in reasons)

    def _forget(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def _report(self) -> int:
        """Write the report. Whatever goes wrong, the rows stay in the run directory and cleanup is still judged."""
        try:
            return self._write_report()
        except Exception as error:  # noqa: BLE001 - a mistake of ours must not hide what may still cost money
            self.trouble.append(f"report not written: {error!r}. The rows are kept in {self.directory}")
            return EXIT_INTERNAL_ERROR

    def _write_report(self) -> int:
        from pytest_glasshouse.publish.writer import publish_records
        from pytest_glasshouse.report.redaction import environment_taint

        self.records = {
            nodeid: self.records[nodeid] if nodeid in self.kept else self._settled(nodeid, row_item)
            for nodeid, row_item in self.selected.rows.items()
        }
        try:
            taint = (*environment_taint(os.environ), *(() if self.broker is None else self.broker.secrets()))
            self.outstanding = self._outstanding_releases()
            done, settled = publish_records(
                list(self.records.values()),
                make=self._make(),
                report=self.report_path,
                run_directory=self.directory,
                taint=taint,
                key=self.key,
                derivation=derivation_of(self.engine),
            )
        except RedactionError as error:
            self.trouble.append(f"{error}. The run is kept in {self.directory}")
            return EXIT_REDACTION
        except ReportError as error:
            self.trouble.append(f"report not published: {error}. The run is kept in {self.directory}")
            return EXIT_REPORT
        except OSError as error:
            self.trouble.append(f"report not written: {error}. The rows are kept in {self.directory}")
            return EXIT_TESTS_FAILED
        self.tamper_shown = settled.document["tamper"]
        self.published = done.paths
        self.replaced = done.replaced and self.earlier is None
        if self.options.html and done.bundle is not None:
            self.published += (self._page(settled.document, done.report),)
        code = self._tell_withheld(settled)
        self._session.report_written(self.published)
        return code

    def _tell_withheld(self, settled: PublishableReport) -> int:
        """Say which rows the report lacks and where they are, and the code for that: 0 where there are none."""
        from pytest_glasshouse.publish.objections import listed

        names = list(self.records)
        self.trouble += self._unspeakable
        for place, against in settled.withheld.items():
            name = self.records[names[place]]["record"]["name"]
            self.trouble.append(f"row {name} was withheld from the report: {listed(against)}")
        self.records = dict(zip(names, settled.records, strict=True))
        if not settled.withheld:
            return EXIT_REPORT if self._unspeakable else 0
        self.withheld = tuple(self.trouble)
        self.trouble.append(f"what was withheld is kept in {self.directory}; publish what may be of it with glasshouse redact")
        rules = [each.rule for against in settled.withheld.values() for each in against if each.rule is not None]
        return EXIT_REDACTION if rules else EXIT_REPORT

    def _page(self, document: dict[str, Any], report: Path) -> Path:
        """The report as a page beside it, made of nothing but what was just published."""
        from pytest_glasshouse.check.check import check_bytes
        from pytest_glasshouse.render.page import page
        from pytest_glasshouse.report.bundle import report_bytes
        from pytest_glasshouse.report.paths import page_path
        from pytest_glasshouse.wire.whole_file import put

        path = page_path(report)
        put(path, page(document, check_bytes(report_bytes(document), derivation=derivation_of(self.engine))).encode())
        return path

    def _make(self) -> Callable[[Sequence[dict[str, Any]]], dict[str, Any]]:
        """What assembles records into this run's document."""
        from pytest_glasshouse.report.document import RunFacts, assemble
        from pytest_glasshouse.report.environment import generated_by, host_environment

        options = self.options
        facts = RunFacts(
            run_id=self.plan.run_id,
            created_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            generated_by=generated_by(),
            subject=self.plan.subject,
            environment=host_environment(),
            order=order_name(options.order),
            preset=options.preset,
            provider=options.provider,
            seed=self.plan.seed,
            margin_pct=options.margin_pct or 1.0,
            max_overhead_pct=options.max_overhead_pct,
            outstanding_releases=self.outstanding,
            attempts=tuple(self.history.attempts()),
            cleanup=tuple(self._cleanups()),
        )
        tamper = [TamperResult(**case) for case in self.tamper]
        return lambda records: assemble(facts, records, tamper=tamper, key=self.key)

    def _outstanding_releases(self) -> tuple[dict[str, Any], ...]:
        """By the word of a server outside, which knows also those of a worker that died; else by what each process saw last."""
        told: Sequence[dict[str, Any]] | None = None
        if self.begun:
            try:
                told = self.engine.outstanding_of(self.options, self.plan.run_id)
            except GlasshouseError as error:
                self.unasked = str(error)
        return tuple(told if told is not None else (each for seen in self._outstanding.values() for each in seen))

    def _cleanups(self) -> Iterator[Any]:
        from pytest_glasshouse.report.document import AllocationCleanup

        yield from self._earlier_cleanups()
        for each in () if self.cleanup is None else self.cleanup.allocations:
            yield AllocationCleanup(
                provider=each.get("provider") or self.options.provider,
                name=each["name"],
                provider_instance_id=each.get("instanceId"),
                status=each["status"],
                reason=each.get("detail") or "the provider's listing showed it while it ran and shows it no more",
            )

    def _earlier_cleanups(self) -> tuple[AllocationCleanup, ...]:
        """What became of the allocations of earlier attempts. Asked once, after those of this one were ended."""
        if self.earlier is None or self.broker is None:
            return ()
        if self._earlier_seen is None:
            from pytest_glasshouse.run.earlier_cleanups import earlier_cleanups

            self._earlier_seen = tuple(earlier_cleanups(self.earlier, self.broker))
        return self._earlier_seen

    def _settled(self, nodeid: str, row_item: RowItem) -> dict[str, Any]:
        """The record of a row that was to run here, from every attempt at it, those of earlier runs of pytest too."""
        from pytest_glasshouse.report.attempts import attempt_entry, standing_record

        earlier = () if self.earlier is None else self.earlier.tried.get(row_item.row.row_id, ())
        own = self._tried[nodeid].all() or [("", None)]
        records = [(at, record or self._without_record(nodeid, row_item)) for at, record in own]
        told = [({"startedAt": at or None, **attempt_entry(record)}, record) for at, record in records]
        return standing_record([*((each, None) for each in earlier), *told])

    def _without_record(self, nodeid: str, row_item: RowItem) -> dict[str, Any]:
        from pytest_glasshouse.observation.outcome import Ended
        from pytest_glasshouse.run.records import ended_record

        if nodeid in self.begun:
            how = f"the run ended by {self._interrupted}" if self._interrupted else "its process ended or was interrupted"
            reason = f"the row was started and left no record: {how}"
            ended = Ended(outcome="lost", reason=reason, decision="Nothing is computed from it; run the row again")
        else:
            ended = Ended(
                outcome="excluded", reason="the run ended before this row was started", decision="Not run; run it again"
            )
        return ended_record(row_item, self.options, ended, seed=self.plan.seed)
