"""The report of a run: assembled from its records, published once at its end, and what kept rows or the whole of it back."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import GlasshouseError, RedactionError, ReportError
from pytest_glasshouse.run.exit_codes import EXIT_INTERNAL_ERROR, EXIT_OK, EXIT_REDACTION, EXIT_REPORT, EXIT_TESTS_FAILED
from pytest_glasshouse.run.options import order_name
from pytest_glasshouse.run.plan import derivation_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.publish.withheld_records import PublishableReport
    from pytest_glasshouse.report.document import AllocationCleanup
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.run.plan import RunInputs, RunPlan
    from pytest_glasshouse.run.record_store import RecordStore
    from pytest_glasshouse.tamper.result import TamperRecord
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.run_plan import TallyRecord


class RunReport:
    """Writes the report to `path`. `directory` is the run directory, where everything that is not published stays."""

    def __init__(
        self, inputs: RunInputs, plan: RunPlan, store: RecordStore, *, path: Path, directory: Path, key: Ed25519PrivateKey
    ) -> None:
        self._inputs = inputs
        self._plan = plan
        self._store = store
        self._directory = directory
        self._key = key
        self.path = path
        self.published: tuple[Path, ...] = ()
        self.replaced = False
        """Whether another report stood at `path` before the run."""
        self.is_whole = True
        """Whether no row had to be withheld."""
        self.tamper: list[TamperRecord] = []
        self.outstanding: tuple[dict[str, Json], ...] = ()
        """Key releases of the run that no leg has completed."""
        self.tallies: tuple[TallyRecord, ...] = ()
        """What the run's attestation servers counted of it."""
        self.server_error = ""
        """Why the attestation server could not be asked for either."""
        self.problems: list[str] = []

    def write(self, cleanup: Sequence[AllocationCleanup], *, secrets: Sequence[str]) -> int:
        """Write report, bundle and page; the exit code for what went wrong, `EXIT_OK` where nothing did.

        Whatever goes wrong, the rows stay in the run directory and cleanup is still judged. Nothing of `secrets` is published.
        """
        try:
            return self._write(cleanup, secrets)
        except RedactionError as error:
            return self._not_published(f"{error}. The run is kept in {self._directory}", EXIT_REDACTION)
        except ReportError as error:
            return self._not_published(f"report not published: {error}. The run is kept in {self._directory}", EXIT_REPORT)
        except OSError as error:
            return self._not_published(f"report not written: {error}. The rows are kept in {self._directory}", EXIT_TESTS_FAILED)
        except Exception as error:  # noqa: BLE001 - a defect here must not hide what may still cost money
            return self._not_published(
                f"report not written: {error!r}. The rows are kept in {self._directory}", EXIT_INTERNAL_ERROR
            )

    def document_of(self, records: Sequence[Record], cleanup: Sequence[AllocationCleanup] = ()) -> Report:
        """The run's document with these records."""
        return self._assembler(cleanup)(records)

    def _not_published(self, problem: str, code: int) -> int:
        self.problems.append(problem)
        return code

    def _write(self, cleanup: Sequence[AllocationCleanup], secrets: Sequence[str]) -> int:
        from pytest_glasshouse.publish.writer import publish_records
        from pytest_glasshouse.report.redaction import environment_taint

        self._store.settle()
        self._ask_server()
        files, settled = publish_records(
            list(self._store.records.values()),
            make=self._assembler(cleanup),
            report=self.path,
            run_directory=self._directory,
            taint=(*environment_taint(os.environ), *secrets),
            key=self._key,
            derivation=derivation_of(self._inputs.engine),
        )
        self.tamper = settled.document["tamper"]
        self.published = files.paths
        self.replaced = files.replaced and self._inputs.earlier is None
        if self._inputs.options.html and files.bundle is not None:
            self.published += (self._page(settled.document, files.report),)
        code = self._withheld(settled)
        self._inputs.report_written(self.published)
        return code

    def _withheld(self, settled: PublishableReport) -> int:
        """Name the rows that the report lacks and where they are; the exit code for that, `EXIT_OK` where there are none."""
        from pytest_glasshouse.analysis.allocation_null import judged_by_nulls
        from pytest_glasshouse.publish.objections import listed

        names = list(self._store.records)
        self.problems += self._store.not_json
        for place, against in settled.withheld.items():
            name = self._store.records[names[place]]["record"]["name"]
            self.problems.append(f"row {name} was withheld from the report: {listed(against)}")
        self._store.records = dict(zip(names, judged_by_nulls(settled.records), strict=True))
        if not settled.withheld:
            return EXIT_REPORT if self._store.not_json else EXIT_OK
        self.is_whole = False
        self.problems.append(
            f"what was withheld is kept in {self._directory}; publish what may be published of it with glasshouse redact"
        )
        rules = [each.rule for against in settled.withheld.values() for each in against if each.rule is not None]
        return EXIT_REDACTION if rules else EXIT_REPORT

    def _page(self, document: Report, report: Path) -> Path:
        """The report as a page beside it, made of nothing but what was just published."""
        from pytest_glasshouse.check.check import check_bytes
        from pytest_glasshouse.render.page import page
        from pytest_glasshouse.report.bundle import report_bytes
        from pytest_glasshouse.report.paths import page_path
        from pytest_glasshouse.wire.whole_file import put

        path = page_path(report)
        checked = check_bytes(report_bytes(document), derivation=derivation_of(self._inputs.engine))
        put(path, page(document, checked).encode())
        return path

    def _assembler(self, cleanup: Sequence[AllocationCleanup]) -> Callable[[Sequence[Record]], Report]:
        """What assembles records into this run's document."""
        from pytest_glasshouse.report.ci_links import ci_extra
        from pytest_glasshouse.report.document import RunFacts, assemble
        from pytest_glasshouse.report.environment import generated_by, host_environment
        from pytest_glasshouse.tamper.result import TamperResult

        options = self._inputs.options
        facts = RunFacts(
            run_id=self._plan.run_id,
            created_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            generated_by=generated_by(),
            subject=self._plan.subject,
            environment=host_environment(),
            order=order_name(options.order),
            provider=options.provider,
            preset=options.preset,
            seed=self._plan.seed,
            margin_pct=options.margin_pct or 1.0,
            max_overhead_pct=options.max_overhead_pct,
            outstanding_releases=self.outstanding,
            tallies=self.tallies,
            attempts=tuple(self._store.history.attempts()),
            cleanup=tuple(cleanup),
            extra={**ci_extra(os.environ, self._plan.subject["gitCommit"])},
        )
        tamper = [TamperResult(**case) for case in self._store.tamper]
        return lambda records: assemble(facts, records, tamper=tamper, key=self._key)

    def _ask_server(self) -> None:
        """As an outside server says, which knows those of a worker that died too; else as each process saw them last."""
        self.outstanding = tuple(each for seen in self._store.outstanding.values() for each in seen)
        self.tallies = tuple(self._store.tallies.values())
        if not self._store.begun and not self._store.judged_before:
            return
        try:
            account = self._inputs.engine.server_account(self._inputs.options, self._plan.run_id)
        except GlasshouseError as error:
            self.server_error = str(error)
            return
        if account is not None:
            self.outstanding = tuple(account.outstanding)
            self.tallies = () if account.tally is None else (account.tally,)
