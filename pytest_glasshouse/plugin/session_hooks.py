"""The run's part in pytest's hooks, in the process that writes the report. Registered once rows were selected."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from pytest_glasshouse.errors import BudgetError, ConfigurationError, GlasshouseError
from pytest_glasshouse.plugin.rental_prompt import consent
from pytest_glasshouse.plugin.stash import EARLIER, OPTIONS, engine_of
from pytest_glasshouse.plugin.terminal import not_a_gate, obeyed, open_live, summary, tell
from pytest_glasshouse.run.exit_codes import EXIT_BUDGET, EXIT_INFRASTRUCTURE
from pytest_glasshouse.wire.output import complain
from pytest_glasshouse.wire.printable import printable_lines

if TYPE_CHECKING:
    from pytest_glasshouse.run.run import Run, Session

_KINDS = {".zip": "bundle", ".html": "page  "}


class RunHooks:
    """Hears how tests begin and end, ends allocations before anything else ends, and writes the summary."""

    def __init__(self, run: Run, config: pytest.Config) -> None:
        self.run, self._config = run, config

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.run.begin(nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        worker = getattr(getattr(getattr(report, "node", None), "gateway", None), "id", "")
        self.run.live.clear(worker=worker if report.when == "teardown" else None)
        if report.failed:
            self.run.failed(report.nodeid)
        payload = getattr(report, "glasshouse", None)
        if payload is not None:
            self.run.take(report.nodeid, payload, worker=worker)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.run.failed(report.nodeid)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Iterator[None]:
        self.run.live.clear()
        with contextlib.suppress(GlasshouseError):
            self.run.end_allocations()
        try:
            yield
        finally:
            session.exitstatus = self.run.finish(int(session.exitstatus))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        run = self.run
        if not run.begun and not run.tamper and not run.kept:
            return
        terminalreporter.section("glasshouse")
        for line in summary(list(run.records.values()), run.tamper_shown):
            tell(terminalreporter, line)
        if run.kept:
            tell(terminalreporter, "")
            told = f"{len(run.kept)} of {len(run.selected.rows)} rows were judged in an earlier attempt and not measured again"
            tell(terminalreporter, f"attempt {run.plan.attempt}: {told}", yellow=True)
        tell(terminalreporter, "")
        for path in run.published:
            tell(terminalreporter, f"{_KINDS.get(path.suffix, 'report')}  {_shown_path(path, self._config)}")
        for line in self._notes():
            tell(terminalreporter, f"glasshouse: {line}", yellow=True)
        for line in self._warnings():
            tell(terminalreporter, f"glasshouse: {line}", red=True)
        if os.environ.get("GITHUB_ACTIONS") == "true":
            self._tell_github(terminalreporter)

    def _notes(self) -> Iterator[str]:
        run = self.run
        if run.published and run.unjudged and run.published[0].is_file():
            again = shlex.quote(_shown_path(run.published[0], self._config))
            yield (
                f"{run.unjudged} of {len(run.selected.rows)} rows were not judged; to run them and keep the others, repeat the "
                f"command with --glasshouse-resume {again}"
            )
        if run.replaced:
            yield "the report replaced a file that stood there before this run"

    def _warnings(self) -> Iterator[str]:
        run = self.run
        if run.outstanding:
            many = f"{len(run.outstanding)} key release(s)"
            yield f"{many} of this run were never completed: a key is out, and its leg's end unseen"
        if run.unasked:
            yield f"outstanding releases as seen here: the server could not be asked ({run.unasked})"
        yield from run.trouble

    def _tell_github(self, reporter: pytest.TerminalReporter) -> None:
        from pytest_glasshouse.plugin.github_actions import annotated, summarise

        run = self.run
        left = "" if run.cleanup_is_proven else f"{run.leftovers} may still exist, and may still cost money"
        reporter.ensure_newline()
        for line in annotated(list(run.records.values()), cleanup=left, trouble=run.trouble):
            obeyed(reporter, line)
        if summary_file := os.environ.get("GITHUB_STEP_SUMMARY"):
            summarise(run, Path(summary_file))

    @pytest.hookimpl(tryfirst=True)
    def pytest_unconfigure(self, config: pytest.Config) -> None:
        self.run.close()
        self._last_line(config)

    def _last_line(self, config: pytest.Config) -> None:
        reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
        run = self.run
        if reporter is None:
            self._without_terminal()
        if reporter is None or not (run.begun or run.kept):
            return
        if run.options.provider == "mock" or run.simulated:
            tell(reporter, not_a_gate(len(run.selected.rows)), yellow=True)
        if not run.cleanup_is_proven:
            tell(reporter, f"glasshouse: cleanup is not proven: {run.leftovers} may still exist", red=True)
            for line in run.by_hand:
                tell(reporter, f"glasshouse: {line}", red=True)

    def _without_terminal(self) -> None:
        """Where pytest shows nothing (`-p no:terminal`), what went wrong is still said."""
        left = (
            []
            if self.run.cleanup_is_proven
            else [f"cleanup is not proven: {self.run.leftovers} may still exist", *self.run.by_hand]
        )
        with contextlib.suppress(OSError, ValueError, AttributeError):
            complain(*(f"glasshouse: {line}" for line in [*self._warnings(), *left]))


def _shown_path(path: Path, config: pytest.Config) -> str:
    base = config.invocation_params.dir
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def session_of(config: pytest.Config) -> Session:
    """What a run needs of this pytest process. To be called while pytest does not capture."""
    from pytest_glasshouse.run.run import Session

    options, hook = config.stash[OPTIONS], config.hook
    return Session(
        options=options,
        root=config.rootpath,
        engine=engine_of(config),
        live=open_live(config),
        ask=lambda broker: consent(broker, options, config, os.environ),
        row_finished=lambda name, record: hook.pytest_glasshouse_row_finished(config=config, list_name=name, record=record),
        report_written=lambda paths: hook.pytest_glasshouse_report_written(config=config, paths=paths),
        earlier=config.stash.get(EARLIER, None),
    )


def refuse(error: GlasshouseError) -> NoReturn:
    """End pytest because a run could not be opened: one line, and the code that says why. Nothing was rented yet."""
    told = "\n".join(printable_lines(error, limit=2000))
    if isinstance(error, ConfigurationError):
        raise pytest.UsageError(told) from None
    if "nothing was rented" not in told.lower():
        told = f"{told.rstrip('.')}. Nothing was rented"
    pytest.exit(f"glasshouse: {told}", returncode=EXIT_BUDGET if isinstance(error, BudgetError) else EXIT_INFRASTRUCTURE)
