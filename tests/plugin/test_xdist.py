"""Rows over several processes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugin.conftest import Project

    Outcomes = Callable[[dict[str, Any]], dict[str, str]]

pytest.importorskip("xdist")


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A temporary directory of this test alone."""
    # Short, because a unix socket is made there.
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_report_is_the_same_with_and_without_workers(project: Project, outcomes: Outcomes, workers: str, temporary: Path) -> None:
    """And only the controller plans, where workers acquire."""
    result = project.rows("good", ("free", "anygpu", "protected-first"), "broken", "nocapacity").spawn(workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert outcomes(project.report()) == {
        "good": "measured",
        "free": "measured",
        "broken": "failed",
        "nocapacity": "infrastructure",
    }
    result.stdout.fnmatch_lines(["glasshouse: provider mock (a dry run on this machine; nothing is rented), *"])
    assert result.outlines[-1] == "0 of 4 rows measured on the GPU they name; not a gate"
    assert len(project.asked("end_all")) == 1
    assert project.asked("plan") == ["plan good free broken nocapacity"]
    assert {line.split()[-1] for line in project.asked("acquire")} <= ({"main"} if workers == "-n0" else {"gw0", "gw1"})
    assert project.left_behind() == []
    assert [path.name for path in temporary.iterdir() if path.name.startswith("glasshouse-")] == []


def test_row_of_a_killed_worker_is_lost_and_no_other_worker_is_started(project: Project, outcomes: Outcomes) -> None:
    """A replacement would rent again for work that was lost."""
    result = project.rows("killed", "good").fork("-n1")
    assert result.ret != pytest.ExitCode.OK
    result.stdout.no_fnmatch_line("*replacing crashed worker*")
    assert outcomes(project.report()) == {"killed": "lost", "good": "excluded"}


def test_restarting_workers_is_an_option_of_the_user(project: Project, outcomes: Outcomes) -> None:
    result = project.rows("killed", "good").fork("-n1", "--max-worker-restart=1")
    result.stdout.fnmatch_lines(["*replacing crashed worker*"])
    assert outcomes(project.report()) == {"killed": "lost", "good": "measured"}


def test_groups_of_tests_do_not_change_what_is_reported(project: Project) -> None:
    source = project.rows("good", "other").pytester.path / "test_rows.py"
    text = source.read_text(encoding="utf-8").replace("@pytest.mark.param", "@pytest.mark.xdist_group('box')\n@pytest.mark.param")
    source.write_text(text, encoding="utf-8")
    project.fork("-n2", "--dist=loadgroup")
    assert len(project.report()["rows"]) == 2


def test_usage_error_found_with_the_rows_ends_the_controller(project: Project) -> None:
    result = project.rows("unconfigurable").fork("-n1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: row needs the extra train"])


def test_workers_without_rows_change_nothing(project: Project) -> None:
    project.pytester.makepyfile("def test_it(): pass")
    result = project.fork("-n1")
    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("glasshouse: *")
    assert project.asked("") == []


def test_termination_of_the_controller_writes_the_report(project: Project) -> None:
    source = project.rows("good").pytester.path / "conftest.py"
    hook = "\ndef pytest_glasshouse_row_finished():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGTERM)\n"
    source.write_text(source.read_text(encoding="utf-8") + hook, encoding="utf-8")
    result = project.fork("-n1")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert project.asked("signal_end") == ["signal_end"]
    assert len(project.report()["rows"]) == 1
