"""pytest's entry point: hooks, and nothing that costs time where there are no rows.

What a hook needs beyond options and marks is imported inside it, once a row was collected.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError, InvariantBroken
from pytest_glasshouse.plugin import options as _options
from pytest_glasshouse.plugin.fixtures import (  # noqa: F401 - pytest finds fixtures by their names here
    _glasshouse_row_objects,
    allocation,
    is_reported,
    protected_runtime,
    raw_runner,
    row_report,
)
from pytest_glasshouse.plugin.markers import MARKERS
from pytest_glasshouse.plugin.stash import (
    ENGINE,
    NOTES,
    OPTIONS,
    PLAN,
    RECORD,
    REFUSED,
    ROW,
    RUN,
    RUN_CONTEXT,
    SHORT_NAMES_TAKEN,
    options_of,
)
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    from pytest_glasshouse.run.plan import RunContext, RunPlan, Selected


#: An error's one line may name a file, a field and what to do.
_LINE = 2000


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_glasshouse.plugin import hookspecs

    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    _options.declare(parser)


@pytest.hookimpl(wrapper=True)
def pytest_load_initial_conftests(early_config: pytest.Config, parser: pytest.Parser, args: list[str]) -> Iterator[None]:
    _options.drop_option_values_from_paths(early_config, args)
    # Conftest files are loaded after the yield, and the final parse is still to come: a name defined by then stays as it is.
    yield
    early_config.stash[SHORT_NAMES_TAKEN] = _options.declare_short(parser)


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning} (glasshouse)")
    try:
        if _options.any_given(config, os.environ):
            config.stash[OPTIONS] = _options.read(config, os.environ)
            if config.stash[OPTIONS].provider_from == "option" and not _is_worker(config):
                _check_provider(config)
    except ConfigurationError as error:
        raise pytest.UsageError(printable(error, limit=_LINE)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.pluginmanager.hasplugin("dsession"):
        from pytest_glasshouse.plugin.xdist import Controller

        controller = Controller(session.config, lambda: _plan(session.config))
        session.config.pluginmanager.register(controller, "glasshouse-controller")


def pytest_make_parametrize_id(val: object) -> str | None:
    spec = _spec()
    return val.name if spec is not None and isinstance(val, spec.RowSpec) else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call = report.__dict__.get("call")
    if call is not None and call.excinfo is not None and isinstance(call.excinfo.value, ConfigurationError):
        # A malformed row: the text names row and field, and a traceback through the constructor adds nothing.
        report.longrepr = printable(f"{collector.nodeid}: {call.excinfo.value}", limit=_LINE)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_pycollect_makeitem() -> Generator[None, Any, Any]:
    made = yield
    if made is not None and _spec() is not None:
        from pytest_glasshouse.plugin.selection import check_parametrization

        check_parametrization(made if isinstance(made, list) else [made])
    return made


def pytest_itemcollected(item: pytest.Item) -> None:
    if _spec() is None:
        return
    from pytest_glasshouse.plugin.selection import apply_row

    apply_row(item, options_of(item.config).overrides)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not any(ROW in item.stash for item in items):
        _suggest_markers(config)
        return
    from pytest_glasshouse.plugin.selection import deselection, without_effect

    try:
        deselected, notes = deselection(items, options_of(config))
    except ConfigurationError as error:
        # A worker cannot end the run: the process that opens it does.
        config.stash[REFUSED] = str(error)
        return
    if deselected:
        left_out = {id(item) for item in deselected}
        items[:] = [item for item in items if id(item) not in left_out]
        config.hook.pytest_deselected(items=deselected)
    idle = without_effect((item.stash[ROW] for item in items if ROW in item.stash), options_of(config))
    config.stash[NOTES] = (*_options.misspelt(os.environ), *notes, *idle)


def pytest_report_collectionfinish(config: pytest.Config, items: Sequence[pytest.Item]) -> list[str]:
    rows = sum(ROW in item.stash for item in items)
    if not rows or config.get_verbosity() < 0:
        return []
    from pytest_glasshouse.plugin.terminal import header

    lines = header(
        options_of(config),
        run_id=_plan(config).run_id,
        rows=rows,
        notes=(*config.stash.get(NOTES, ()), *_plan(config).notes),
        short_names_taken=config.stash.get(SHORT_NAMES_TAKEN, ()),
    )
    if not config.option.collectonly:
        return lines
    from pytest_glasshouse.plugin.collected_rows import rows_table
    from pytest_glasshouse.rows.row_time import time_lines
    from pytest_glasshouse.wire.text_table import width_of

    table = rows_table(config, items, run_id=_plan(config).run_id, width=width_of(sys.stdout))
    return [*lines[1:], *table, *time_lines([item.stash[ROW].row for item in items if ROW in item.stash])]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    if not _is_worker(session.config):
        return
    selected = _selected(session)
    if selected is not None:
        from pytest_glasshouse.plugin.xdist import send_selection

        send_selection(session.config, selected)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> None:
    config = session.config
    stopped = session.testsfailed and not config.option.continue_on_collection_errors
    if stopped or config.option.collectonly or config.option.setuponly or _is_worker(config):
        return
    selected = _selected(session)
    if selected is None:
        return
    from pytest_glasshouse.plugin.session_hooks import RunHooks, refuse, run_inputs
    from pytest_glasshouse.run.plan import RunContext
    from pytest_glasshouse.run.run import Run

    plan = _plan(config)  # first: it finds the run to resume, which is one of the inputs
    try:
        run = Run.open(run_inputs(config), plan, selected)
    except GlasshouseError as error:
        refuse(error)
    config.stash[RUN] = run
    config.pluginmanager.register(RunHooks(run, config), "glasshouse-run")
    config.stash[RUN_CONTEXT] = RunContext(
        plan=run.plan, worker="main", broker=run.broker, on_progress=run.live.show, update=run.store.update
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    from pytest_glasshouse.plugin import row_attempts

    context = _context(item) if is_reported(item) else None
    if context is not None and ROW in item.stash and not item.config.option.setuponly:
        row_attempts.begin(item)
    with row_attempts.recording_errors(item):
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if ROW not in item.stash or item.config.option.setuponly:
        return None
    from pytest_glasshouse.plugin.judged_before import report_as_judged

    return report_as_judged(item, _context(item)) or None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    from pytest_glasshouse.plugin import row_attempts

    with row_attempts.recording_errors(item):
        result = yield
        if ROW in item.stash:
            from pytest_glasshouse.plugin.fixtures import fail_unless_passed

            fail_unless_passed(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if is_reported(item) and RUN_CONTEXT in item.config.stash:
        _complete_report(item, call, report)
    return report


def pytest_report_teststatus(report: pytest.CollectReport | pytest.TestReport) -> tuple[str, str, Any] | None:
    category = getattr(report, "glasshouse_category", None)
    if category == "dry-run" and report.passed:
        return "dry-run", "d", ("DRY-RUN", {"yellow": True})
    if category == "kept":
        return ("kept", "k", ("KEPT", {"yellow": True})) if report.passed else None
    if category == "error" and report.failed:
        return "error", "E", "ERROR"
    return None


def pytest_unconfigure(config: pytest.Config) -> None:
    engine = config.stash.get(ENGINE, None)
    if engine is not None:
        engine.close()


def _complete_report(item: pytest.Item, call: pytest.CallInfo[None], report: Any) -> None:
    """Give the report what it carries: the record, the category of its outcome, and an error's text without a traceback."""
    from pytest_glasshouse.plugin import row_attempts
    from pytest_glasshouse.plugin.fixtures import is_dry_run, payload
    from pytest_glasshouse.run.records import other_findings

    error = None if call.excinfo is None else call.excinfo.value
    if isinstance(error, GlasshouseError | InvariantBroken) and call.excinfo is not None and report.failed:
        shown = call.excinfo.getrepr(style="value")
        if isinstance(error, InvariantBroken) and (others := other_findings(item.stash.get(RECORD, None), str(error))):
            shown.addsection("other findings of this row that did not hold", "\n".join(others))
        report.longrepr = shown
    if report.failed or report.skipped:
        from pytest_glasshouse.plugin.terminal import made_visible

        report.longrepr = made_visible(report.longrepr)
        if ROW in item.stash and report.failed:
            from pytest_glasshouse.plugin.short_summary import begin_with_row

            begin_with_row(item, report.longrepr)
    if report.when == "call":
        if isinstance(error, GlasshouseError):
            report.glasshouse_category = "error"
        elif report.passed and is_dry_run(item):
            report.glasshouse_category = "dry-run"
    if report.when == "teardown" and (text := payload(item)) is not None:
        report.glasshouse = text
        if RECORD in item.stash:
            from pytest_glasshouse.plugin.github_actions import junit_properties

            report.user_properties += junit_properties(row_attempts.standing(item)[1] or item.stash[RECORD])


def _check_provider(config: pytest.Config) -> None:
    """A provider from the command line is checked at once; one from the ini file only when there are rows."""
    options = options_of(config)
    if options.provider != "mock":
        from pytest_glasshouse.plugin.stash import engine_of

        engine_of(config).check(options)


def _context(item: pytest.Item) -> RunContext | None:
    """The context of this process; a worker asks for its own before its first row."""
    config = item.config
    if RUN_CONTEXT not in config.stash and _is_worker(config):
        from pytest_glasshouse.plugin.xdist import open_context

        config.stash[RUN_CONTEXT] = open_context(config)
    return config.stash.get(RUN_CONTEXT, None)


def _suggest_markers(config: pytest.Config) -> None:
    expression = config.option.markexpr
    if not expression or _spec() is None or _is_worker(config):
        return
    from pytest_glasshouse.plugin.selection import registered_markers, unknown_markers

    found = unknown_markers(expression, registered_markers(config))
    if found:
        name, marker = found[0]
        raise pytest.UsageError(f"-m {expression}: no marker {name!r} is registered. Did you mean {marker}?")


def _plan(config: pytest.Config) -> RunPlan:
    """What every process of this run agrees on, made once."""
    if PLAN not in config.stash:
        from pytest_glasshouse.plugin.stash import EARLIER, engine_of
        from pytest_glasshouse.run.plan import new_plan

        try:
            config.stash[PLAN], earlier = new_plan(options_of(config), config.rootpath, engine_of(config))
        except ConfigurationError as error:
            raise pytest.UsageError(printable(error, limit=_LINE)) from None
        if earlier is not None:
            config.stash[EARLIER] = earlier
    return config.stash[PLAN]


def _selected(session: pytest.Session) -> Selected | None:
    reported = [item for item in session.items if is_reported(item)]
    if not reported:
        return None
    from pytest_glasshouse.plugin.selection import selected_of

    files = sorted({str(item.path) for item in session.items})
    stash = session.config.stash
    return selected_of(reported, stash.get(NOTES, ()), files=files, refused=stash.get(REFUSED, ""))


def _spec() -> ModuleType | None:
    """The module of `RowSpec` if it was imported: without it there is no row."""
    return sys.modules.get("pytest_glasshouse.rows.spec")


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")
