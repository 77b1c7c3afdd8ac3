"""The run's part in pytest's hooks, in the process that writes the report. Registered once rows were selected."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_glasshouse.errors import BudgetError, ConfigurationError, GlasshouseError
from pytest_glasshouse.plugin.rental_prompt import ask_to_rent
from pytest_glasshouse.plugin.stash import EARLIER, engine_of, options_of
from pytest_glasshouse.plugin.summary import summary
from pytest_glasshouse.plugin.terminal import dry_runs, not_a_gate, open_live, write_command, write_line
from pytest_glasshouse.run.exit_codes import EXIT_BUDGET, EXIT_INFRASTRUCTURE
from pytest_glasshouse.wire.guest_messages import DETAIL
from pytest_glasshouse.wire.output import write_errors
from pytest_glasshouse.wire.printable import counted, printable, printable_lines
from pytest_glasshouse.wire.text_table import width_of

if TYPE_CHECKING:
    from pytest_glasshouse.run.plan import RunInputs
    from pytest_glasshouse.run.run import Run

_KINDS = {".zip": "bundle", ".html": "page  "}


class RunHooks:
    """Follows how tests begin and end, ends allocations before anything else, and writes the summary."""

    def __init__(self, run: Run, config: pytest.Config) -> None:
        self.run, self._config = run, config
        self._interrupted = False

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.run.store.begin(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worker = getattr(getattr(getattr(report, "node", None), "gateway", None), "id", "")
        self.run.live.clear(worker=worker if report.when == "teardown" else None)
        if report.failed:
            self.run.failed(report.nodeid)
        payload = getattr(report, "glasshouse", None)
        if payload is not None:
            self.run.store.receive(report.nodeid, payload, worker=worker)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.run.failed(report.nodeid)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        self.run.live.clear()
        with contextlib.suppress(GlasshouseError):
            self.run.cleanup.end_all()
        try:
            yield
        finally:
            self._interrupted = int(session.exitstatus) == pytest.ExitCode.INTERRUPTED
            session.exitstatus = self.run.finish(int(session.exitstatus))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        run = self.run
        if run.store.is_empty:
            return
        terminalreporter.section("glasshouse")
        width = width_of(sys.stdout) if sys.stdout is not None else None
        for line in summary(list(run.store.records.values()), run.report.tamper, width=width):
            write_line(terminalreporter, line)
        if run.store.judged_before:
            write_line(terminalreporter, "")
            judged = f"{len(run.store.judged_before)} of {len(run.selected.rows)} rows were judged in an earlier attempt"
            write_line(terminalreporter, f"attempt {run.plan.attempt}: {judged} and not measured again", yellow=True)
        write_line(terminalreporter, "")
        for path in run.report.published:
            write_line(terminalreporter, f"{_KINDS.get(path.suffix, 'report')}  {_shown_path(path, self._config)}")
        for line in self._notes():
            write_line(terminalreporter, f"glasshouse: {line}", yellow=True)
        for line in self._warnings():
            write_line(terminalreporter, f"glasshouse: {line}", red=True)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            self._annotate_for_github(terminalreporter)

    def _resume_hint(self) -> str:
        """How to run the rows that were not judged; empty where every one was."""
        run = self.run
        if not (run.report.published and run.store.not_judged and run.report.published[0].is_file()):
            return ""
        report = shlex.quote(_shown_path(run.report.published[0], self._config))
        return (
            f"glasshouse: {run.store.not_judged} of {len(run.selected.rows)} rows were not judged; to run them and keep the "
            f"others, repeat the command with --glasshouse-resume {report}"
        )

    def _notes(self) -> Iterator[str]:
        run = self.run
        for reason in run.broker.cpu_reasons if run.broker is not None else ():
            yield f"the legs trained on the CPU: {printable(reason, limit=DETAIL)}"
        if run.report.replaced:
            yield "the report replaced a file that was there before this run"

    def _warnings(self) -> Iterator[str]:
        run = self.run
        if run.report.outstanding:
            yield (
                f"{counted(len(run.report.outstanding), 'key')} of this run released without proof of deletion: expected exit "
                "evidence of each leg, saw none; treat what those keys protect as exposed"
            )
        if run.report.server_error:
            yield f"outstanding releases as seen here: the attestation server could not be asked ({run.report.server_error})"
        yield from run.problems

    def _annotate_for_github(self, reporter: pytest.TerminalReporter) -> None:
        from pytest_glasshouse.plugin.github_actions import workflow_commands, write_summary

        run = self.run
        left = "" if run.cleanup.is_proven else f"{run.cleanup.leftovers} may still exist, and may still cost money"
        reporter.ensure_newline()
        for line in workflow_commands(list(run.store.records.values()), cleanup=left, problems=run.problems):
            write_command(reporter, line)
        if summary_file := os.environ.get("GITHUB_STEP_SUMMARY"):
            write_summary(run, Path(summary_file))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_unconfigure(self, config: pytest.Config) -> Iterator[None]:
        self.run.close()
        yield
        # After what pytest says of an interrupt: whoever pressed Ctrl-C reads the last line.
        self._last_line(config)

    def _last_line(self, config: pytest.Config) -> None:
        reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
        run = self.run
        if reporter is None:
            self._without_terminal()
        if reporter is None or not (run.store.begun or run.store.judged_before):
            return
        hint = self._resume_hint()
        if hint and not self._interrupted:
            write_line(reporter, hint, yellow=True)
        if run.options.provider == "mock" or run.simulated:
            write_line(reporter, not_a_gate(len(run.selected.rows)), yellow=True)
        elif run.options.provider == "local" and (said := dry_runs([*run.store.records.values()])):
            write_line(reporter, said, yellow=True)
        if not run.cleanup.is_proven:
            write_line(reporter, f"glasshouse: cleanup is not proven: {run.cleanup.leftovers} may still exist", red=True)
            for line in run.cleanup.by_hand:
                write_line(reporter, f"glasshouse: {line}", red=True)
        if hint and self._interrupted:
            write_line(reporter, hint, yellow=True)

    def _without_terminal(self) -> None:
        """Without pytest's terminal (`-p no:terminal`), what went wrong goes to standard error."""
        cleanup = self.run.cleanup
        left = [] if cleanup.is_proven else [f"cleanup is not proven: {cleanup.leftovers} may still exist", *cleanup.by_hand]
        with contextlib.suppress(OSError, ValueError, AttributeError):
            write_errors(*(f"glasshouse: {line}" for line in [*self._warnings(), *left]))


def _shown_path(path: Path, config: pytest.Config) -> str:
    base = config.invocation_params.dir
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def run_inputs(config: pytest.Config) -> RunInputs:
    """What a run needs of this pytest process. To be called while pytest does not capture."""
    from pytest_glasshouse.run.plan import RunInputs

    options, hook = options_of(config), config.hook
    return RunInputs(
        options=options,
        root=config.rootpath,
        engine=engine_of(config),
        live=open_live(config),
        ask_to_rent=lambda broker: ask_to_rent(broker, options, config, os.environ),
        row_finished=lambda record: hook.pytest_glasshouse_row_finished(
            config=config, list_name=record["list"], record=record["record"]
        ),
        report_written=lambda paths: hook.pytest_glasshouse_report_written(config=config, paths=paths),
        earlier=config.stash.get(EARLIER, None),
    )


def refuse(error: GlasshouseError) -> NoReturn:
    """End pytest because a run could not be opened: one line, and the exit code for the reason. Nothing was rented yet."""
    text = "\n".join(printable_lines(error, limit=2000))
    if isinstance(error, ConfigurationError):
        raise pytest.UsageError(text) from None
    if "nothing was rented" not in text.lower():
        text = f"{text.rstrip('.')}. Nothing was rented"
    pytest.exit(f"glasshouse: {text}", returncode=EXIT_BUDGET if isinstance(error, BudgetError) else EXIT_INFRASTRUCTURE)
