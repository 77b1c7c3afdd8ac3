"""One run: what was selected, what came of it, and how it ends. It lives in the only process, or in xdist's controller.

It promises that allocations are ended before anything else, that every row that was asked for is in the report once, and
that the report is written also after an interrupt. It refuses to judge a row.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError, CredentialsError, LaunchRefusedError
from pytest_glasshouse.run.attempt_history import outcome_of, reason_of
from pytest_glasshouse.run.cleanup import RunCleanup
from pytest_glasshouse.run.exit_codes import (
    EXIT_BUDGET,
    EXIT_CLEANUP,
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_TESTS_FAILED,
    EXIT_USAGE,
)
from pytest_glasshouse.run.plan import agreed_options, with_tests
from pytest_glasshouse.run.record_store import RecordStore
from pytest_glasshouse.run.resume import refuse_another_run
from pytest_glasshouse.run.run_report import RunReport
from pytest_glasshouse.run.signals import Signals
from pytest_glasshouse.wire.run_plan import planned_row

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import AttemptFields, Record
    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.run.plan import RunInputs, RunPlan, Selected


class Run:
    """A run's broker, its records (`store`), its `report` and its `cleanup`.

    `open` raises `ConfigurationError` before anything is started.
    """

    def __init__(self, inputs: RunInputs, plan: RunPlan, selected: Selected) -> None:
        from pytest_glasshouse.report.run_key import TagKey, run_key
        from pytest_glasshouse.wire.whole_file import is_passed_through

        self._inputs = inputs
        self.options = inputs.options
        self.engine = inputs.engine
        self.live = inputs.live
        self.plan = plan
        self.selected = selected
        earlier = inputs.earlier
        default = inputs.options.reports(inputs.root) / f"{plan.run_id}.json" if earlier is None else earlier.report
        path = self.options.report or default
        beside = default if is_passed_through(path) else path
        self.directory = beside.parent / f"{plan.run_id}.run"
        key = run_key(os.environ, plan.run_id)
        self.store = RecordStore(inputs, plan, selected.rows, self.directory, TagKey(key, plan.run_id))
        self.report = RunReport(inputs, plan, self.store, path=path, directory=self.directory, key=key)
        self.broker: Broker | None = None
        self.cleanup = RunCleanup(None, inputs, run_id=plan.run_id)
        self._problems: list[str] = []
        self._failed: set[str] = set()
        self._signals = Signals(self._on_signal)

    @classmethod
    def open(cls, inputs: RunInputs, plan: RunPlan, selected: Selected) -> Run:
        """Check what can be checked before the first row, and make the broker where there are rows. Rents nothing.

        Raises `ConfigurationError`, `BudgetError` where the estimate is above the budget, and `InfrastructureError` where a
        provider cannot be asked.
        """
        from pytest_glasshouse.report.paths import check_writable
        from pytest_glasshouse.report.run_directory import check_run_directory
        from pytest_glasshouse.wire.folder import check_umask

        if selected.refused:
            raise ConfigurationError(selected.refused)
        check_umask()
        rows = [each.row for each in selected.rows.values()]
        plan = dataclasses.replace(
            plan,
            subject=with_tests(plan.subject, inputs.root, selected),
            planned=[planned_row(row.row_id, row.rounds, gpus=row.gpus, nodes=row.nodes) for row in rows],
        )
        options = inputs.options
        if inputs.earlier is not None:
            refuse_another_run(
                inputs.earlier, provider=options.provider, subject=plan.subject, rows=rows, options=agreed_options(options)
            )
        run = cls(inputs, plan, selected)
        check_writable(run.report.path, html=options.html)
        if os.path.lexists(run.directory):
            check_run_directory(run.directory)
            run.store.history.attempts()
        run._refuse_private_names()
        run._check_material(rehearsed=False)
        if rows:
            run._start()
        return run

    def _start(self) -> None:
        """Make the broker, ask whether to rent where it rents, and write down what a later attempt has to agree with."""
        from pytest_glasshouse.run.progress_file import PROGRESS

        rows = [each.row for each in self.selected.rows.values()]
        broker = self.engine.broker(
            self.options,
            rows,
            run_id=self.plan.run_id,
            run_dir=self.directory,
            tell=self.live.show_boot,
            models=self.plan.models,
        )
        self.broker, self.cleanup = broker, RunCleanup(broker, self._inputs, run_id=self.plan.run_id)
        broker.plan(rows)
        if broker.rents:
            self._check_material(rehearsed=True)
        if broker.rents or broker.simulated:
            self._inputs.ask_to_rent(broker)
        try:
            references = {name: found["reference"] for name, found in self.plan.models.items()}
            self.store.open(self.report.path, models={name: each for name, each in references.items() if each is not None})
        except OSError as error:
            if self._inputs.earlier is None:
                self._remove_directory()
            raise ConfigurationError(
                f"the run directory {self.directory} cannot be written ({error.strerror or error}); nothing was started"
            ) from None
        self.live.write_to(self.directory / PROGRESS)
        self.live.money = broker.spent_usd
        self.live.gpu_hours = broker.gpu_hours
        self.live.budget_usd, self.live.max_gpu_hours = self.options.budget_usd, self.options.max_gpu_hours
        self._signals.install()

    def _check_material(self, *, rehearsed: bool) -> None:
        to_run = [each for nodeid, each in self.selected.rows.items() if nodeid not in self.store.judged_before]
        # A branch may have moved since an earlier attempt: every attempt of a run trains the commit of the first.
        known = {} if self._inputs.earlier is None else self._inputs.earlier.models
        rows = [(each.row, each.model or known.get(each.row.model or "")) for each in to_run]
        models = self.engine.check_material(rows, self.options, seed=self.plan.seed, rehearsed=rehearsed)
        self.plan = dataclasses.replace(self.plan, models=models)

    def _refuse_private_names(self) -> None:
        """Raise `ConfigurationError` for a name that could not be published, while nothing is lost by it."""
        from pytest_glasshouse.report.paths import machine_paths
        from pytest_glasshouse.report.redaction import environment_taint
        from pytest_glasshouse.run.private_names import refuse_private_names

        unstarted = [self.store.missing_record(nodeid, row_item) for nodeid, row_item in self.selected.rows.items()]
        refuse_private_names(
            self.selected.rows,
            self.options,
            report=self.report.path,
            document={**self.report.document_of(unstarted[:1]), "excludedResults": [each["record"] for each in unstarted]},
            taint=(*environment_taint(os.environ), *machine_paths(self.directory)),
        )

    def failed(self, nodeid: str) -> None:
        """A test, with a row or not, failed in some phase."""
        self._failed.add(nodeid)

    def finish(self, exitstatus: int) -> int:
        """Write the report, and return the exit code: 10, 11 and 14 are decided here, 12 and 13 by `RunReport.write`."""
        self.live.close()
        if self.store.is_empty:
            self._remove_directory()
            return exitstatus if exitstatus or not self.selected.rows else EXIT_TESTS_FAILED
        secrets = () if self.broker is None else self.broker.secrets()
        code = self.report.write(self.cleanup.allocations, secrets=secrets) or exitstatus
        if self.broker is not None and self.broker.over_budget:
            self._problems.append(self.broker.over_budget)
            code = EXIT_BUDGET
        if code == EXIT_TESTS_FAILED and self._only_infrastructure_failed():
            code = EXIT_INFRASTRUCTURE
        if code == EXIT_TESTS_FAILED and self._only_refusals_failed():
            code = EXIT_USAGE
        if code == EXIT_OK and ((self.selected.rows and not self.store.measured) or self.report.outstanding):
            code = EXIT_TESTS_FAILED
        if code == EXIT_OK and (names := self._rows_not_green()):
            self._problems.append(f"failed by their records, though their tests passed: {', '.join(names)}")
            code = EXIT_TESTS_FAILED
        if not self.cleanup.is_proven:
            return EXIT_CLEANUP
        if self.report.published and self.report.is_whole:
            self._remove_directory()
        return code

    def close(self) -> None:
        """Give signals and descriptors back. Harmless when called twice."""
        self._signals.restore()
        self.live.close()

    @property
    def problems(self) -> list[str]:
        """What went wrong with the run itself, one line each."""
        return [*self.store.problems, *self.report.problems, *self._problems]

    @property
    def simulated(self) -> bool:
        """Whether a provider stood in for the real one."""
        return self.broker is not None and bool(self.broker.simulated)

    def _rows_not_green(self) -> list[str]:
        """Rows that passed as tests and do not pass as records: something broke, or a later attempt was to make up for it."""
        from pytest_glasshouse.report.attempts import attempt_entry, has_broken
        from pytest_glasshouse.run.records import failure_of

        names = []
        for each in self.store.records.values():
            row = each["record"]
            stands_failed = "attempts" in row and failure_of(each, self.options)
            attempts: Sequence[AttemptFields] = row.get("attempts") or [attempt_entry(each)]
            if stands_failed or outcome_of(each) not in ("measured", "excluded") or any(map(has_broken, attempts)):
                names.append(row["name"])
        return names

    def _on_signal(self, name: str) -> None:
        self.store.interrupted_by = name
        if self.broker is not None:
            self.broker.signal_end()

    def _failed_records(self) -> list[Record | None]:
        return [self.store.records.get(nodeid) for nodeid in self._failed]

    def _only_infrastructure_failed(self) -> bool:
        failed = self._failed_records()
        return bool(failed) and all(each is not None and outcome_of(each) == "infrastructure" for each in failed)

    def _only_refusals_failed(self) -> bool:
        """Whether a key that may not do this, or a request that is wrong, is all that failed: no retry helps, only the user."""
        prefixes = tuple(f"{kind.__name__}: " for kind in (CredentialsError, LaunchRefusedError))
        failed = self._failed_records()
        return bool(failed) and all(each is not None and (reason_of(each) or "").startswith(prefixes) for each in failed)

    def _remove_directory(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)
