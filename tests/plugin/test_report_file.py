"""What ends up in the report, and with what code a run ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.cli.main import main
from tests.unit.report import example

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugin.conftest import Project

    Outcomes = Callable[[dict[str, Any]], dict[str, str]]


def test_reports_lie_in_the_directory_that_an_option_names(project: Project) -> None:
    project.rows("good").run("--glasshouse-report-dir", "kept/here", "--glasshouse-html")
    kept = project.pytester.path / "kept" / "here"
    (report,) = kept.glob("*.json")

    expected = sorted(f"{report.stem}{each}" for each in (".json", ".glasshouse.zip", ".html"))
    assert sorted(each.name for each in kept.iterdir()) == expected
    assert not (project.pytester.path / "reports").exists()


def test_each_selected_row_is_in_the_report_once_with_its_outcome(project: Project, outcomes: Outcomes) -> None:
    rows = ("good", ("free", "anygpu", "protected-first"), "broken", "lostcallback", "nocapacity", "toolbroken", "guestgone")
    result = project.rows(*rows).run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(project.report()) == {
        "good": "measured",
        "free": "measured",
        "broken": "failed",
        "lostcallback": "excluded",
        "nocapacity": "infrastructure",
        "toolbroken": "error",
        "guestgone": "infrastructure",
    }
    assert project.left_behind() == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [((), ("row", None)), (("--order", "raw-first", "--glasshouse-preset", "quick"), ("raw-first", "quick"))],
)
def test_methodology_names_the_order_and_the_preset_of_the_run(
    project: Project, arguments: tuple[str, ...], expected: tuple[str, str | None]
) -> None:
    project.rows("good").run(*arguments)
    methodology = project.report()["methodology"]
    assert (methodology["order"], methodology["preset"]) == expected


def test_bundle_is_written_beside_the_report(project: Project) -> None:
    project.rows("good").run("--glasshouse-report", "out/mine.json").stdout.fnmatch_lines(
        ["report  out/mine.json", "bundle  out/mine.*"]
    )
    assert sorted(path.name for path in (project.pytester.path / "out").iterdir()) == ["mine.glasshouse.zip", "mine.json"]


@pytest.mark.parametrize("arguments", [(), ("-n", "1")], ids=["alone", "with a worker"])
def test_test_file_that_no_commit_names_makes_the_tree_dirty(project: Project, arguments: tuple[str, ...]) -> None:
    """What ran from it is in no commit; a tree with nothing but that file beside it looks clean to git."""
    root = project.rows("good").pytester.path
    _git(root, "init")
    _git(root, "commit", "--allow-empty", "-m", "one")
    project.run(*arguments)
    before = project.report()["subject"]
    shutil.rmtree(root / "reports")
    _git(root, "add", *(path.name for path in root.glob("*.py")))
    _git(root, "commit", "-m", "two")
    (root / "notes.txt").write_text("nobody's business", encoding="utf-8")
    project.run(*arguments)
    after = project.report()["subject"]

    assert (before["dirty"], after["dirty"]) == (True, False)


def _git(root: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(root), *identity, *arguments], check=True, capture_output=True)


def test_report_that_replaces_a_file_is_noted(project: Project) -> None:
    project.rows("good")
    project.run("--glasshouse-report", "out/mine.json").stdout.no_fnmatch_line("*the report replaced a file*")
    again = project.run("--glasshouse-report", "out/mine.json")
    again.stdout.fnmatch_lines(["report  out/mine.json", "*the report replaced a file that was there before this run"])


def test_release_that_was_never_completed_is_in_the_report_and_fails_the_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is fine, and a worker that died took a key with it: only the server outside knows."""
    monkeypatch.setenv("FAKE_OUTSTANDING", "one")
    result = project.rows("good").run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*1 key of this run released without proof of deletion*"])
    (release,) = project.report()["summary"]["outstandingReleases"]
    assert (release["nonce"], release["deadline"]) == ("a" * 64, 20)


def test_server_that_cannot_be_asked_at_the_end_is_reported(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is listed then is what the run saw, and must not be taken for the server's answer."""
    monkeypatch.setenv("FAKE_OUTSTANDING", "unreachable")
    result = project.rows("good").run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*as seen here: the attestation server could not be asked*"])
    assert project.report()["summary"]["outstandingReleases"] == []


def test_page_is_written_beside_the_report_and_holds_nothing_else(project: Project) -> None:
    project.rows("good").run("--glasshouse-html").stdout.fnmatch_lines(["page    reports/*.html"])
    (page,) = (project.pytester.path / "reports").glob("*.html")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert f"Glasshouse report {project.report()['runId']}" in page.read_text(encoding="utf-8")


def test_no_page_is_written_where_redaction_stopped_the_report(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DETAIL", "gone from a-secret-socket-name")
    assert project.rows("good").run("--glasshouse-html").ret == 12
    assert not list(project.pytester.path.rglob("*.html"))


def test_allocation_is_given_back_after_each_row_and_ended_before_the_report(project: Project) -> None:
    project.rows("good", "toolbroken").run()
    assert [line.split()[0] for line in project.asked("")] == [
        "plan", "acquire", "release", "acquire", "release", "end_all", "forget",
    ]  # fmt: skip


def test_text_of_an_error_is_recorded_without_its_paths(project: Project) -> None:
    project.rows("toolbroken").run()
    (row,) = project.report()["excludedResults"]
    assert row["reason"] == "RuntimeError: the tool broke in (path)"


@pytest.mark.parametrize(
    "arguments", [["--co"], ["--setup-plan"], ["--setup-only"], ["-m", "a4000"], ["-x", "test_first.py", "test_rows.py"]]
)
def test_nothing_is_rented_or_written_where_no_row_runs(project: Project, arguments: list[str]) -> None:
    project.pytester.makepyfile(test_first="def test_first(): assert False")
    project.rows("good").run(*arguments)
    assert project.asked("acquire") == []
    assert project.reports() == []
    assert project.left_behind() == []


def test_row_that_was_not_reached_is_reported_as_such(project: Project, outcomes: Outcomes) -> None:
    project.rows("broken", "good").run("-x")
    report = project.report()
    assert outcomes(report) == {"broken": "failed", "good": "excluded"}
    assert report["excludedResults"][1]["reason"] == "the run ended before this row was started"


def test_row_that_never_recorded_fails(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import pytest
        from pytest_glasshouse.rows import RowSpec

        @pytest.mark.parametrize("row", [RowSpec(name="mine", workload="mlp", gpu="anygpu", order="raw-first", target_s=60)])
        def test_it(row, allocation, protected_runtime, raw_runner, row_report):
            row.run(allocation, protected_runtime, raw_runner)
        """
    )
    result = project.run()
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["the row was not recorded: every row test must call row_report.record*"])
    assert project.report()["excludedResults"][0]["outcome"] == "error"


def test_skipped_row_does_not_make_a_green_run(project: Project) -> None:
    """A gate that measured nothing must not be green."""
    project.pytester.makepyfile(
        """
        import pytest
        from pytest_glasshouse.rows import RowSpec

        @pytest.mark.parametrize("row", [RowSpec(name="mine", workload="mlp", gpu="anygpu", order="raw-first", target_s=60)])
        def test_it(row, allocation):
            pytest.skip("not today")
        """
    )
    assert project.run().ret == pytest.ExitCode.TESTS_FAILED
    assert project.report()["excludedResults"][0]["reason"] == "skipped: not today"


def test_row_named_by_publishable_fails_with_every_reason(project: Project) -> None:
    result = project.rows("good").run("--provider", "mock", "--glasshouse-publishable")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["good: not publishable: dry run; *"])
    assert len(project.report()["rows"]) == 1


def test_one_round_is_inconclusive_under_a_limit(project: Project) -> None:
    result = project.rows("good").run("--glasshouse-max-overhead", "50")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["good: inconclusive: expected a one-sided 95 % upper bound of at most 50 % overhead, saw none*"])


@pytest.mark.parametrize(("limit", "message"), [("50", None), ("0.1", "good: over the limit: *")])
def test_limit_is_judged_over_rounds(project: Project, limit: str, message: str | None) -> None:
    result = project.rows("good").run("--glasshouse-max-overhead", limit, "--glasshouse-rounds", "5")
    assert result.ret == (pytest.ExitCode.OK if message is None else pytest.ExitCode.TESTS_FAILED)
    if message is not None:
        result.stdout.fnmatch_lines([message])


def test_run_in_which_only_infrastructure_failed_is_safe_to_retry(project: Project) -> None:
    assert project.rows("good", "nocapacity", "guestgone").run().ret == 14


def test_failure_that_is_not_infrastructure_is_not_retried(project: Project) -> None:
    project.pytester.makepyfile(test_other="def test_other(): assert False")
    assert project.rows("good", "nocapacity").run().ret == pytest.ExitCode.TESTS_FAILED


def test_cleanup_that_is_not_proven_overrides_everything_and_is_shown_last(project: Project) -> None:
    result = project.rows("good", "broken").run("--glasshouse-mock-fault", "terminate-fails")
    assert result.ret == 10
    assert result.outlines[-1] == "glasshouse: cleanup is not proven: glasshouse-x-1 may still exist"
    assert project.report()["cleanup"]["status"] == "leak"


def test_cleanup_that_could_not_be_judged_is_not_proven(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_END_RAISES", "1")
    assert project.rows("good").run("--glasshouse-mock-fault", "terminate-fails").ret == 10


def test_forbidden_value_of_the_run_keeps_the_report_in_the_quarantine(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DETAIL", "gone from a-secret-socket-name")
    result = project.rows("good").run()
    assert result.ret == 12
    assert project.reports() == []
    (left,) = project.left_behind()
    quarantine = project.pytester.path / "reports" / left / "quarantine"
    assert stat.S_IMODE((quarantine / "report.json").stat().st_mode) == 0o600
    result.stdout.fnmatch_lines(["*report not published: 1 forbidden value*"])
    result.stdout.no_fnmatch_line("*a-secret-socket-name*")
    # and it can be published without what stopped it
    assert main(["redact", str(quarantine.parent)], derivation=example.EXAMPLE) == 0
    assert "a-secret-socket-name" not in project.reports()[0].read_text("utf-8")
    assert len(project.report()["rows"]) == 1


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("leaky", 12, "rule taint"),
        ("nested", 13, "nested deeper"),
        ("deep", 13, ""),
        ("figure", 13, "does not follow the schema"),
        ("huge", 13, "not to be read"),
        ("notfinite", 13, "not to be read"),
        ("unspeakable", 13, "no JSON"),
        ("surrogate", 13, "not to be read"),
    ],
)
def test_forbidden_value_of_one_row_withholds_that_row_and_never_the_run(
    project: Project, name: str, code: int, message: str
) -> None:
    """A paid run of twenty rows is not lost to what a guest sent in one of them, and nothing is published that check refuses."""
    result = project.rows("good", name, "free").run()

    assert result.ret == code
    report, (path,) = project.report(), project.reports()
    assert [row["name"] for row in report["rows"]] == ["good", "free"]
    (gone,) = report["excludedResults"]
    assert (gone["name"], gone["outcome"], gone["observation"]) == (name, "error", {})
    assert message in gone["reason"]
    assert check_bytes(path.read_bytes(), derivation=example.EXAMPLE).faults == ()
    result.stdout.no_fnmatch_line("*a-secret-socket-name*")


def test_withheld_row_is_kept_unredacted_and_published_later_without_what_it_was_withheld_for(project: Project) -> None:
    project.rows("good", "leaky").run()
    (left,) = project.left_behind()
    run = project.pytester.path / "reports" / left
    quarantined = run / "quarantine" / "rows.json"
    assert "a-secret-socket-name" in quarantined.read_text("utf-8")
    assert stat.S_IMODE(quarantined.stat().st_mode) == 0o600
    assert main(["redact", str(run)], derivation=example.EXAMPLE) == 0
    assert [row["name"] for row in project.report()["rows"]] == ["good"]


def test_termination_ends_allocations_first_and_still_writes_the_report(project: Project, outcomes: Outcomes) -> None:
    result = project.rows("good", "terminated", "never").fork()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert [line.split()[0] for line in project.asked("")][-4:] == ["signal_end", "end_all", "release", "forget"]
    report = project.report()
    assert outcomes(report) == {"good": "measured", "terminated": "lost", "never": "excluded"}
    assert "SIGTERM" in report["excludedResults"][0]["reason"]


def test_killed_run_leaves_its_finished_rows_in_the_journal(project: Project) -> None:
    result = project.rows("good", "killed").fork()
    assert result.ret == -signal.SIGKILL
    (left,) = project.left_behind()
    lines = (project.pytester.path / "reports" / left / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["record"]["name"] for line in lines] == ["good"]


def test_hooks_tell_other_plugins_of_rows_and_of_the_report(project: Project) -> None:
    conftest = project.pytester.path / "conftest.py"
    hooks = """
def pytest_glasshouse_row_finished(list_name, record):
    print("heard", list_name, record["name"])

def pytest_glasshouse_report_written(paths):
    print("written", [path.suffix for path in paths])
"""
    conftest.write_text(conftest.read_text(encoding="utf-8") + hooks, encoding="utf-8")
    project.rows("good").run("-s").stdout.fnmatch_lines(["*heard rows good", "*written [[]'.json', '.zip']"])


def test_signal_handlers_are_restored(project: Project) -> None:
    before = signal.getsignal(signal.SIGTERM)
    project.rows("good").run()
    assert signal.getsignal(signal.SIGTERM) is before
    assert os.getpid() > 0


def test_tamper_results_reach_the_report_without_a_row(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import example

        def test_tamper(row_report):
            for result in example.tamper():
                row_report.record(result)
        """
    )
    result = project.run()
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["tamper: 1 of 1 refused as expected, 1 of 1 controls released"])
    assert [case["passed"] for case in project.report()["tamper"]] == [True, True]
    assert project.asked("plan") == []


def test_interrupted_row_keeps_its_finished_rounds(project: Project) -> None:
    """Hours of a night are not lost with the last minute of it."""
    result = project.rows("good", "brokenoff", "never").fork()
    assert result.ret == pytest.ExitCode.INTERRUPTED
    excluded = {each["name"]: each for each in project.report()["excludedResults"]}
    assert excluded["brokenoff"]["outcome"] == "lost"
    assert "2 of 3 rounds are finished and kept" in excluded["brokenoff"]["reason"]
    assert len(excluded["brokenoff"]["observation"]["rounds"]) == excluded["brokenoff"]["roundsCompleted"] == 2
    assert excluded["never"]["outcome"] == "excluded"
    result.stdout.fnmatch_lines(["*brokenoff*interval half-width * points*"])
