"""The test of a row that an earlier attempt judged: it is reported as it ended then, and nothing of it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import pytest

from pytest_glasshouse.plugin.stash import ROW

if TYPE_CHECKING:
    from pytest_glasshouse.run.plan import RunContext


def report_as_judged(item: pytest.Item, context: RunContext | None) -> bool:
    """Report the test of a row that was judged before in place of running it; false where the row has to run."""
    row_id = item.stash[ROW].row.row_id
    if context is None or row_id not in context.plan.judged_before:
        return False
    failure = context.plan.judged_before[row_id]
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for when in ("setup", "call", "teardown"):
        report = _report(item, when, failure if when == "call" else "")
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _report(item: pytest.Item, when: Literal["setup", "call", "teardown"], failure: str) -> pytest.TestReport:
    report = pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords=dict.fromkeys(item.keywords, 1),
        outcome="failed" if failure else "passed",
        longrepr=f"judged in an earlier attempt of this run\n{failure}" if failure else None,
        when=when,
        duration=0.0,
    )
    if when == "call":
        report.glasshouse_category = "kept"  # type: ignore[attr-defined]
    return report
