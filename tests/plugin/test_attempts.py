"""Rows that are tried again, by any means: every attempt is recorded, and none can be chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.report.attempts import NEEDED_MORE
from tests.plugin.conftest import CONFTEST
from tests.plugin.retries import RETRIES
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugin.conftest import Project

    Outcomes = Callable[[dict[str, Any]], dict[str, str]]

#: A test that fails where its row is slow, after recording it.
STRICT = """
import dataclasses, pytest
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=name, workload="mlp", gpu="h100", order="raw-first", target_s=60) for name in {names!r}]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    record = row_report.record(row.run(allocation, protected_runtime, raw_runner))
    assert record.get("overheadPct", 99.0) < 5.0
"""


def retried(project: Project, *names: str) -> Project:
    project.pytester.makeconftest(CONFTEST + RETRIES)
    project.pytester.makepyfile(test_rows=STRICT.format(names=names))
    return project


def row_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    (row,) = [each for part in ("rows", "excludedResults") for each in report[part] if each["name"] == name]
    found: dict[str, Any] = row
    return found


def shape(row: dict[str, Any]) -> list[tuple[str, float | None, bool]]:
    return [
        (each["outcome"], round(each["overheadPct"], 1) if "overheadPct" in each else None, each["stands"])
        for each in row["attempts"]
    ]


def test_every_attempt_is_recorded_and_the_first_judged_one_stands(project: Project) -> None:
    """Of the same row 5.5 % vanished behind -27.6 %, and a broken zeroize behind a good one."""
    result = retried(project, "in-slow-fast", "in-broken-good", "in-guestgone-good", "good").run()

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    report = project.report()
    slow, broken, gone = row_of(report, "in-slow-fast"), row_of(report, "in-broken-good"), row_of(report, "in-guestgone-good")
    assert shape(slow) == [("measured", 5.5, True), ("measured", -27.6, False)]
    assert round(slow["overheadPct"], 1) == 5.5
    assert shape(broken) == [("failed", None, True), ("measured", 1.0, False), ("measured", 1.0, False)]
    assert [(each["invariant"], each["finding"]) for each in broken["attempts"][0]["notHeld"]] == [("runtime zeroized", "broken")]
    assert broken["outcome"] == "failed"
    assert shape(gone) == [("infrastructure", None, False), ("measured", 1.0, True)]
    assert "attempts" not in row_of(report, "good")
    for row in (slow, broken, gone):
        assert not row["publishable"]
        assert NEEDED_MORE in row["unpublishableBecause"]
        assert all(each["startedAt"] and each["lifecycle"] for each in row["attempts"])
    # the broken lifecycle counts, and those of later attempts too
    assert (report["summary"]["lifecycle"]["held"], report["summary"]["lifecycle"]["attempted"]) == (6, 7)
    result.stdout.fnmatch_lines(
        [
            "*attempt 1 at this row stands, whatever later attempts gave: in-broken-good was not measured: failed*",
            "  in-broken-good: attempt 1 of 3 stands; later: 2: +1.05 % (single sample); 3: +1.05 % (single sample)",
            "  in-slow-fast: attempt 1 of 2 stands; later: 2: -27.62 % (single sample)",
            "  in-guestgone-good: attempt 2 of 2 stands; earlier: 1: infrastructure",
        ]
    )
    assert check_bytes(project.reports()[0].read_bytes(), derivation=example.EXAMPLE).faults == ()


def test_row_that_passed_only_in_its_last_attempt_fails_a_run_that_has_to_publish(project: Project) -> None:
    """A test that never looks at the first attempt is green; a run that has to publish is not."""
    assert retried(project, "in-slow-fast").run().ret == pytest.ExitCode.OK
    for path in (*project.reports(), project.pytester.path / "carried.log"):
        path.unlink()
    result = project.run("--glasshouse-publishable", "--provider", "mock")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines([f"*{NEEDED_MORE}*"])


def test_limit_missed_once_is_missed(project: Project) -> None:
    """Even where nothing but the limit fails, and the last attempt is far below it."""
    project.rows("in-slow-fast")
    project.pytester.makeconftest(CONFTEST + RETRIES)
    result = project.run("--glasshouse-max-overhead", "2")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [each["overheadPct"] > 5 for each in row_of(project.report(), "in-slow-fast")["attempts"]] == [True, False, False]


def test_attempts_of_a_known_retry_plugin_are_recorded(project: Project) -> None:
    """pytest-rerunfailures as it is."""
    pytest.importorskip("pytest_rerunfailures")
    project.pytester.makepyfile(test_rows=STRICT.format(names=["in-slow-fast", "in-broken-good"]))
    result = project.run("--reruns", "1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert [each["attempt"] for each in row_of(project.report(), "in-slow-fast")["attempts"]] == [1, 2]
    assert shape(row_of(project.report(), "in-broken-good")) == [("failed", None, True), ("measured", 1.0, False)]


def test_worker_that_died_in_an_attempt_leaves_an_attempt(project: Project) -> None:
    """With restarts allowed, a retry plugin runs the test again in another worker."""
    pytest.importorskip("pytest_rerunfailures")
    project.rows("killedonce")
    project.fork("-n1", "--reruns", "1", "--max-worker-restart", "2")
    row = row_of(project.report(), "killedonce")
    assert shape(row) == [("lost", None, False), ("measured", 1.0, True)]
    assert NEEDED_MORE in row["unpublishableBecause"]


TWICE = """
import dataclasses, pytest
from pytest_glasshouse.rows import RowSpec

def row(name):
    return RowSpec(name=name, workload="mlp", gpu="h100", order="raw-first", target_s=60)

@pytest.mark.parametrize("row", [row("in-slow-fast-run")])
def test_run_twice(row, allocation, protected_runtime, raw_runner, row_report):
    row.run(allocation, protected_runtime, raw_runner)
    row_report.record(row.run(allocation, protected_runtime, raw_runner))

@pytest.mark.parametrize("row", [row("in-broken-good-run")])
def test_run_until_good(row, allocation, protected_runtime, raw_runner, row_report):
    for _ in range(2):
        outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)

@pytest.mark.parametrize("row", [row("in-good-broken-record")])
def test_record_two(row, allocation, protected_runtime, raw_runner, row_report):
    outcomes = [row.run(allocation, protected_runtime, raw_runner) for _ in range(2)]
    for outcome in reversed(outcomes):
        row_report.record(outcome)

@pytest.mark.parametrize("row", [row("in-guestgone-good-caught")])
def test_error_is_caught(row, allocation, protected_runtime, raw_runner, row_report):
    with pytest.raises(Exception, match="the guest"):
        row.run(allocation, protected_runtime, raw_runner)
    row_report.record(row.run(allocation, protected_runtime, raw_runner))

@pytest.mark.parametrize("row", [row("good")])
def test_record_one_twice(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    assert row_report.record(outcome) == row_report.record(outcome)

@pytest.mark.parametrize("row", [row("broken")])
def test_not_recorded(row, allocation, protected_runtime, raw_runner, row_report):
    row.run(allocation, protected_runtime, raw_runner)
    assert False, "before it is recorded"
"""


def test_row_that_a_test_runs_twice_has_two_attempts(project: Project) -> None:
    project.pytester.makepyfile(test_twice=TWICE)
    result = project.run()
    report = project.report()
    assert shape(row_of(report, "in-slow-fast-run")) == [("measured", 5.5, True), ("measured", -27.6, False)]
    assert shape(row_of(report, "in-broken-good-run")) == [("failed", None, True), ("measured", 1.0, False)]
    assert shape(row_of(report, "in-good-broken-record")) == [("measured", 1.0, False), ("failed", None, True)]
    assert shape(row_of(report, "in-guestgone-good-caught")) == [("infrastructure", None, False), ("measured", 1.0, True)]
    assert "attempts" not in row_of(report, "good")
    assert row_of(report, "broken")["outcome"] == "failed"
    result.assert_outcomes(failed=3)


OTHERS = """
import dataclasses, pytest
from pytest_glasshouse.rows import RowSpec

def row(name="mine", **changes):
    return RowSpec(**{"name": name, "workload": "mlp", "gpu": "h100", "order": "raw-first", "target_s": 60, **changes})

LEFT = []

@pytest.fixture
def made():
    return row("made")

@pytest.mark.parametrize("row", [row()])
def test_replaced(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(dataclasses.replace(row, target_s=1800).run(allocation, protected_runtime, raw_runner))

@pytest.mark.parametrize("row", [row("renamed")])
def test_named(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(dataclasses.replace(row, name="better").run(allocation, protected_runtime, raw_runner))

@pytest.mark.parametrize("row", [row("with-another")])
def test_made(row, made, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(made.run(allocation, protected_runtime, raw_runner))

@pytest.mark.parametrize("row", [row("as-it-is")])
def test_as_it_is(row, allocation, protected_runtime, raw_runner, row_report):
    LEFT.append(row.run(allocation, protected_runtime, raw_runner))
    row_report.record(LEFT[0])

@pytest.mark.parametrize("row", [row("of-another")])
def test_of_another(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(LEFT[0])

def test_without_a_row(row_report):
    row_report.record(LEFT[0])
"""


def test_other_row_than_a_tests_own_is_neither_run_nor_recorded(project: Project, outcomes: Outcomes) -> None:
    """It ran unpriced, in full, and the record of the row that was asked for was lost."""
    project.pytester.makepyfile(test_others=OTHERS)
    result = project.run()
    assert (project.pytester.path / "carried.log").read_text("utf-8").split() == ["as-it-is"]
    assert {name: outcome for name, outcome in outcomes(project.report()).items() if outcome != "error"} == {
        "as-it-is": "measured"
    }
    text = result.stdout.str()
    own = "as in the row this test runs"
    for expected in (
        f"test_replaced[mine]: field target_s: expected 2.0 {own}, saw 1800",
        f"test_named[renamed]: field name: expected 'renamed' {own}, saw 'better'",
        f"test_made[with-another]: field name: expected 'with-another' {own}, saw 'made'",
        f"test_of_another[of-another]: field name: expected 'of-another' {own}, saw 'as-it-is'",
        "test_without_a_row: expected a parameter that is a RowSpec, saw none",
    ):
        assert expected in text
    result.stdout.no_fnmatch_line("*Traceback*")


HIDDEN = """
import pytest
from pytest_glasshouse.rows import RowSpec

def row(name):
    return RowSpec(name=name, workload="mlp", gpu="h100", order="raw-first", target_s=60)

@pytest.mark.xfail
@pytest.mark.parametrize("row", [row("broken-expected")])
def test_expected(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))

@pytest.mark.parametrize("row", [row("broken-skipped")])
def test_skipped(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
    pytest.skip("after the fact")

@pytest.mark.parametrize("row", [row("good")])
def test_in_parts(row, subtests, allocation, protected_runtime, raw_runner, row_report):
    with subtests.test("before"):
        outcome = row.run(allocation, protected_runtime, raw_runner)
    with subtests.test("then"):
        row_report.record(outcome)
"""


def test_broken_row_is_not_green_because_its_test_is(project: Project, outcomes: Outcomes) -> None:
    """Marks and plugins decide how a test is reported, and not whether something was broken."""
    project.pytester.makepyfile(test_hidden=HIDDEN)
    result = project.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(project.report()) == {"broken-expected": "failed", "broken-skipped": "failed", "good": "measured"}
    result.stdout.fnmatch_lines(
        ["glasshouse: failed by their records, though their tests passed: broken-expected, broken-skipped"]
    )


def test_every_row_on_every_worker_is_refused(project: Project) -> None:
    result = project.rows("good").fork("-n2", "--dist", "each")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--dist each runs every row on every worker; expected every row once: use --dist load*"])
    assert project.asked("acquire") == []
    assert project.left_behind() == []


def test_killed_attempt_counts_and_a_judged_one_stays_in_a_run_that_goes_on(project: Project) -> None:
    """Killing a run between two attempts must not be a way to drop the first."""
    retried(project, "in-broken-killed", "in-killed-good").fork("-q")
    assert project.reports() == []
    (directory,) = (project.pytester.path / "reports").glob("*.run")

    project.fork("-q", "--glasshouse-resume", str(directory))  # the second row kills this one
    result = project.run("--glasshouse-resume", str(directory))
    report = project.report()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    broken, killed = row_of(report, "in-broken-killed"), row_of(report, "in-killed-good")
    assert shape(broken) == [("failed", None, True), ("lost", None, False)]
    assert shape(killed) == [("lost", None, False), ("measured", 1.0, True)]
    assert sum(each["begun"].count(killed["rowId"]) for each in report["attempts"]) == 2
    assert check_bytes(project.reports()[0].read_bytes(), derivation=example.EXAMPLE).faults == ()


UNRECORDED = """
import os, pytest, signal
from pathlib import Path
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=name, workload="mlp", gpu="h100", order="raw-first", target_s=60) for name in {names!r}]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    if not Path("ended").exists():
        Path("ended").touch()
        {ending}
    row_report.record(outcome)
"""


@pytest.mark.parametrize("ending", ["pytest.exit('enough', returncode=0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_broken_row_whose_run_ends_before_it_is_recorded_is_broken(project: Project, ending: str) -> None:
    """It was seen to be broken: ending the run there and resuming it does not allow another attempt."""
    project.pytester.makepyfile(test_rows=UNRECORDED.format(names=["in-broken-good"], ending=ending))
    (project.fork if "kill" in ending else project.run)("-q")
    (left,) = [*project.reports(), *(project.pytester.path / "reports").glob("*.run")][:1]

    assert project.run("-q", "--glasshouse-resume", str(left)).ret == pytest.ExitCode.TESTS_FAILED
    assert row_of(project.report(), "in-broken-good")["outcome"] == "failed"
