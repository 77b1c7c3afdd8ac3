"""A run that was cut off goes on: judged rows stay as they are, the rest is run, and the report says what happened."""

from __future__ import annotations

import json
import shutil
import stat
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.attempts import HISTORY, PLAN, History
from pytest_glasshouse.report.check import check_bytes
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.conftest import Project

    Outcomes = Callable[[dict[str, Any]], dict[str, str]]

SIX = ("good-1", "good-2", "good-3", "killedonce", "good-5", "good-6")


def run_directory(project: Project) -> Path:
    (path,) = (project.pytester.path / "reports").glob("*.run")
    return path


@pytest.fixture
def killed(project: Project) -> Project:
    """Six rows, killed in the fourth."""
    project.rows(*SIX).spawn("-q")
    assert project.reports() == []
    return project


def acquired(project: Project) -> list[str]:
    return [line.split()[1] for line in project.asked("acquire")]


def test_run_killed_after_three_of_six_rows_finishes_with_six(killed: Project, outcomes: Outcomes) -> None:
    named = run_directory(killed).name.removesuffix(".run")
    history = run_directory(killed) / HISTORY  # as if it had been killed between the third record and the line that says so
    lines = history.read_text("utf-8").splitlines()
    third = max(place for place, line in enumerate(lines) if "finish" in line)
    history.write_text("\n".join(lines[:third] + lines[third + 1 :]) + '\n{"event": "fin', "utf-8")
    result = killed.run("--glasshouse-resume", named)

    assert result.ret == 0
    assert set(outcomes(killed.report()).values()) == {"measured"}
    assert len(killed.report()["rows"]) == 6
    assert acquired(killed) == [*SIX[:4], *SIX[3:]]
    assert killed.report()["runId"] == named
    result.stdout.fnmatch_lines(["*attempt 2 of this run: 3 row(s) kept as they were judged before*"])
    result.stdout.fnmatch_lines(["attempt 2: 3 of 6 rows were judged in an earlier attempt and not measured again"])
    result.stdout.fnmatch_lines(["*3 kept*"])
    assert killed.left_behind() == []
    # and the report tells every attempt a row was begun in
    report = killed.report()
    ids = {row["name"]: row["rowId"] for row in report["rows"]}
    first, second = report["attempts"]

    assert first["begun"] == [ids[name] for name in SIX[:4]]
    assert first["finished"] == [{"rowId": ids[name], "outcome": "measured"} for name in SIX[:3]]
    assert second["kept"] == [ids[name] for name in SIX[:3]]
    assert second["begun"] == [ids[name] for name in SIX[3:]]
    data = killed.reports()[0].read_bytes()
    assert not [fault for fault in check_bytes(data, derivation=example.EXAMPLE).faults if "attempt" in fault.text]


def test_with_workers_kept_rows_stay_too(killed: Project) -> None:
    result = killed.spawn("--glasshouse-resume", str(run_directory(killed)), "-n1")

    assert result.ret == 0
    assert len(killed.report()["rows"]) == 6
    assert acquired(killed) == [*SIX[:4], *SIX[3:]]


def test_failed_row_stays_failed_and_fails_the_run_again(project: Project, outcomes: Outcomes) -> None:
    """Nothing is silently tried again until it is green."""
    project.rows("broken", "lostcallback", "guestgone", "killedonce", "good").spawn("-q")
    result = project.run("--glasshouse-resume", str(run_directory(project)))

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(project.report()) == {
        "broken": "failed", "lostcallback": "excluded", "guestgone": "infrastructure", "killedonce": "measured", "good": "measured",
    }  # fmt: skip
    assert acquired(project).count("broken") == acquired(project).count("lostcallback") == 1
    assert acquired(project).count("guestgone") == 2
    result.stdout.fnmatch_lines(["*judged in an earlier attempt of this run*", "*broken was not measured: failed*"])


def test_run_that_ended_is_resumed_from_its_report(project: Project, outcomes: Outcomes) -> None:
    project.rows("good-1", "broken", "good-2").run("-x")
    before = project.report()
    project.run("--glasshouse-resume", before["runId"])

    assert outcomes(project.report()) == {"good-1": "measured", "broken": "failed", "good-2": "measured"}
    assert acquired(project) == ["good-1", "broken", "good-2"]
    assert [each["attempt"] for each in project.report()["attempts"]] == [1, 2]


def test_run_with_nothing_left_says_the_same_again(project: Project, outcomes: Outcomes) -> None:
    project.rows("good", "free").run()
    assert project.run("--glasshouse-resume", project.report()["runId"]).ret == 0
    assert outcomes(project.report()) == {"good": "measured", "free": "measured"}
    assert acquired(project) == ["good", "free"]


def test_another_run_is_not_taken_for_this_one(killed: Project) -> None:
    """Nor is it resumed with fewer rows than finished, nor from nothing; each is a usage error that says what to do."""
    directory = run_directory(killed)
    plan = json.loads((directory / PLAN).read_text("utf-8"))
    spoilt = {
        "judges pytest-glasshouse at 111111111111": {**plan, "subject": {**plan["subject"], "gitCommit": "1" * 40}},
        "the run was on provider local": {**plan, "provider": "local"},
        "cannot be read (KeyError)": {},
    }
    for says, told in spoilt.items():
        (directory / PLAN).write_text(json.dumps(told), "utf-8")
        result = killed.run("--glasshouse-resume", str(directory))
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*{says.replace('(', '[(]').replace(')', '[)]')}*"])
    (directory / PLAN).write_text(json.dumps(plan), "utf-8")

    result = killed.run("--glasshouse-resume", str(directory), "-k", "good-5")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*of the run and not selected now: good-1-*"])
    shutil.rmtree(directory)
    assert killed.run("--glasshouse-resume", "20261121-000000-abcdef").ret == pytest.ExitCode.USAGE_ERROR


def test_interrupted_run_says_how_to_go_on_and_its_report_may_lie_anywhere(project: Project, outcomes: Outcomes) -> None:
    elsewhere = ("--glasshouse-report", "elsewhere/mine.json")
    result = project.rows("good-1", "broken", "good-2").run("-x", *elsewhere)
    told = (
        "glasshouse: 1 of 3 rows were not judged; to run them and keep the others, repeat the command with --glasshouse-resume *"
    )
    result.stdout.fnmatch_lines([told])
    (line,) = [line for line in result.outlines if "--glasshouse-resume" in line]
    path = project.pytester.path / line.split()[-1]
    first = path.read_bytes()
    run_id = json.loads(first)["runId"]

    for named in (("--glasshouse-resume", line.split()[-1]), ("--glasshouse-resume", run_id, *elsewhere)):
        path.write_bytes(first)
        result = project.run(*named)
        report = json.loads(path.read_bytes())
        assert (report["runId"], outcomes(report)["good-2"]) == (run_id, "measured")
        result.stdout.no_fnmatch_line("*were not judged*")
    (path.parent / "copy.json").write_bytes(first)
    project.run("--glasshouse-resume", run_id, *elsewhere).stderr.fnmatch_lines(["*(copy.json, mine.json all say *name one)*"])
    refused = project.run("--glasshouse-resume", "nobody", *elsewhere)
    refused.stderr.fnmatch_lines(["*expected a run id, a run directory (.run) or a report (.json)*"])


def test_other_options_are_another_run(killed: Project) -> None:
    """Neither a directory nor a report is gone on with under other options: its rows would be others under the same id."""
    named = run_directory(killed).name.removesuffix(".run")
    log = acquired(killed)
    for options, told in {
        ("--order", "protected-first"): "--glasshouse-order (none given; here protected-first)",
        ("--glasshouse-rounds", "3"): "--glasshouse-rounds (none given; here 3)",
        ("--glasshouse-max-overhead", "2.5"): "--glasshouse-max-overhead (none given; here 2.5)",
    }.items():
        result = killed.run("--glasshouse-resume", named, *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*was started with other options: {told}. Give the same options, or start a new run*"])
    assert acquired(killed) == log
    assert killed.reports() == []


def test_other_options_than_a_reports_are_another_run(project: Project) -> None:
    project.rows("good-1", "broken", "good-2").run("-x", "--glasshouse-rounds", "2", "--order", "protected-first")
    (path,) = project.reports()
    before = path.read_bytes()
    for options, told in {
        (): "--glasshouse-order (protected-first; here none given)",
        (
            "--order",
            "protected-first",
        ): "row good-1 (rounds 2; here 1), row broken (rounds 2; here 1), row good-2 (rounds 2; here 1)",
    }.items():
        result = project.run("--glasshouse-resume", str(path), *options)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"*was started with other options: {told}. Give the same options, or start a new run*"])
    assert path.read_bytes() == before


def test_history_torn_by_the_kill_is_read_up_to_there(tmp_path: Path) -> None:
    history = History(tmp_path / "run")
    history.start({}, attempt=1, at="2026-11-21T00:00:00Z", kept=[])
    history.begin("row-1")
    with (tmp_path / "run" / HISTORY).open("a", encoding="utf-8") as file:
        file.write('{"event": "fin')

    assert [each["begun"] for each in history.attempts()] == [["row-1"]]
    history.finish("row-1", "measured")
    assert history.attempts()[0]["finished"] == [{"rowId": "row-1", "outcome": "measured"}]
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
