"""Environments as people have them: what cannot work is one line and exit 4, and nothing is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.limits import HANG_S
from tests.pytest_process import NO_OTHERS

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

#: A namespace of one's own, where this user has no name: `unshare` of util-linux. Not every container allows it.
NAMELESS = ("unshare", "-U", "--map-user=54321")
MOUNTS = ("unshare", "-rm")


def allowed(*prefix: str) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.fixture(name="temporary")
def a_temporary_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


def ran(
    project: Project, *arguments: str, prefix: tuple[str, ...] = (), cwd: Path | None = None, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """pytest in a process of its own, in an environment that is changed: None takes a variable away."""
    given = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    command = [*prefix, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=cwd or project.pytester.path, env=given, capture_output=True, text=True, errors="replace", check=False,
        timeout=HANG_S, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def copied(project: Project, *arguments: str, **environment: str | None) -> subprocess.CompletedProcess[str]:
    """As `ran`, where how Python starts is no subject."""
    code = project.fork("-p", "no:cacheprovider", *arguments, **environment).ret
    shown = [(project.path / name).read_text("utf-8", "replace") for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(arguments, int(code), *shown)


def is_one_line(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == pytest.ExitCode.USAGE_ERROR, (result.stdout, result.stderr)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("ERROR")]
    assert all(word in line for word in words), line
    assert "Traceback" not in result.stdout + result.stderr


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["alone", "workers"])
def test_without_a_terminal_plugin_rows_run_and_a_report_is_written(project: Project, workers: tuple[str, ...]) -> None:
    result = copied(project.rows("good"), "-p", "no:terminal", *workers)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(project.report()["rows"]) == 1


def test_without_a_terminal_plugin_a_leak_is_still_reported(project: Project) -> None:
    result = copied(project.rows("good"), "-p", "no:terminal", "--glasshouse-mock-fault", "terminate-fails")
    assert (result.returncode, result.stderr) == (10, "glasshouse: cleanup is not proven: glasshouse-x-1 may still exist\n")


@pytest.mark.parametrize("options", ["-p no:logging -p no:faulthandler -p no:capture", "--capture=no -q -q"])
def test_plugins_and_verbosity_change_nothing(project: Project, options: str) -> None:
    assert copied(project.rows("good"), *options.split()).returncode == 0
    assert len(project.report()["rows"]) == 1


@pytest.mark.skipif(not allowed(*NAMELESS), reason="no user namespaces here")
def test_a_user_without_home_and_name_gets_a_report(project: Project) -> None:
    """As in many a container: `docker run --user 54321`."""
    result = ran(project.rows("good"), prefix=NAMELESS, HOME=None)
    assert result.returncode == 0, result.stdout
    assert len(project.report()["rows"]) == 1


@pytest.mark.skipif(not allowed(*NAMELESS), reason="no user namespaces here")
def test_path_with_an_unknown_user_after_the_tilde_is_a_usage_error_of_one_line(project: Project) -> None:
    result = ran(project.rows("good"), "--glasshouse-policy", "~/policy.json", prefix=NAMELESS, HOME=None)
    is_one_line(result, "~/policy.json", "HOME", "Write the whole path")


def test_a_umask_that_takes_files_from_their_owner_is_an_error_of_one_line(project: Project) -> None:
    umask = "0477"
    result = ran(project.rows("good"), prefix=("sh", "-c", f'umask {umask}; exec "$@"', "sh"))
    is_one_line(result, f"umask {umask}", "0022")
    assert project.left_behind() == []


@pytest.mark.skipif(not allowed(*MOUNTS), reason="no mount namespaces here")
def test_a_full_disk_for_reports_is_an_error_of_one_line_before_anything_starts(project: Project) -> None:
    folder = project.rows("good").pytester.path / "reports"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size=4k none {folder}; "$@"; code=$?; ls -A {folder}; exit $code'
    result = ran(project, prefix=(*MOUNTS, "sh", "-c", mount, "sh"))
    is_one_line(result, "cannot be written", "nothing was started")
    assert project.asked("acquire") == []
    assert result.stdout.splitlines()[-1].startswith("=")  # `ls` shows nothing


def test_a_hangup_ends_allocations_as_a_termination_does(project: Project) -> None:
    """The connection to the machine where pytest runs is lost; what is rented keeps billing."""
    result = copied(project.rows("hungup", "good"))
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert project.asked("signal_end") == ["signal_end"]
    assert project.asked("end_all") == ["end_all"]
    assert {row["outcome"] for row in project.report()["excludedResults"]} == {"excluded", "lost"}


def test_under_nohup_a_hangup_stays_ignored(project: Project) -> None:
    result = ran(project.rows("hungup", "good"), prefix=("sh", "-c", 'trap "" HUP; exec "$@"', "sh"))
    assert result.returncode == 0, result.stdout
    assert len(project.report()["rows"]) == 2


def test_a_reader_that_goes_away_leaves_nothing_rented(project: Project) -> None:
    """`pytest | head`."""
    command = f"{sys.executable} -m pytest -p no:cacheprovider -v | head -n 12"
    project.rows(*(f"good-{number}" for number in range(6)))
    subprocess.run(["sh", "-c", command], cwd=project.pytester.path, capture_output=True, check=False, timeout=HANG_S)
    assert project.asked("end_all") == ["end_all"]
    assert len(project.asked("acquire")) == len(project.asked("release"))


def test_a_closed_standard_input_changes_nothing(project: Project) -> None:
    """Of the others pytest itself cannot do without."""
    assert ran(project.rows("good"), prefix=("sh", "-c", 'exec "$@" <&-', "sh")).returncode == 0
    assert len(project.report()["rows"]) == 1


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": None}],
    ids=["latin-1", "C"],
)
def test_output_that_is_not_utf8_shows_what_it_can(project: Project, environment: dict[str, Any]) -> None:
    """A directory's name is not ours to choose."""
    project.rows("good", "lostcallback")
    result = ran(project, "--glasshouse-report", "Ergebnisse-\u00fc-\u2603/report.json", **environment)
    assert "UnicodeEncodeError" not in result.stdout + result.stderr
    assert result.returncode == pytest.ExitCode.TESTS_FAILED, result.stdout
    assert (project.pytester.path / "Ergebnisse-\u00fc-\u2603" / "report.json").is_file()


@pytest.mark.parametrize(
    "environment",
    [
        {"COLUMNS": "1", "TERM": None, "PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "error", "TZ": "../../etc/passwd", "HOME": "/proc"},
        {
            "COLUMNS": "0", "TERM": "dumb", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONHASHSEED": "0", "LC_ALL": "tr_TR.UTF-8",
            "PYTEST_ADDOPTS": f"{NO_OTHERS} -q --order raw-first", "PYTHONPATH": "/nonexistent:/dev/null",
        },
    ],
    ids=["some", "others"],
)  # fmt: skip
def test_unusual_environment_variables_change_nothing(project: Project, environment: dict[str, Any]) -> None:
    assert ran(project.rows("good"), **environment).returncode == 0
    assert len(project.report()["rows"]) == 1


def test_nothing_relies_on_assert_statements(project: Project) -> None:
    """`PYTHONOPTIMIZE` takes them away."""
    project.rows("good", "broken", "lostcallback")
    result = ran(project, "-p", "no:warnings", PYTHONOPTIMIZE="2", PYTHONDONTWRITEBYTECODE=None)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert [row["name"] for row in project.report()["rows"]] == ["good"]


def repository(folder: Path) -> str:
    """A git tree with one commit; its name."""
    folder.mkdir(exist_ok=True)
    (folder / "file").write_text(folder.name)
    for arguments in (["init", "-q"], ["add", "-A"], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True)
    done = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_in_a_hook_of_git_the_subject_is_the_projects_own_commit(project: Project, tmp_path: Path) -> None:
    """git runs a hook with variables that name the repository of the hook, its index, and its settings."""
    other = tmp_path / "other"
    own, foreign = repository(project.rows("good").pytester.path), repository(other)
    result = copied(
        project, GIT_DIR=str(other / ".git"), GIT_WORK_TREE=str(other), GIT_INDEX_FILE=str(other / ".git" / "index"),
        GIT_PREFIX="x/", GIT_CONFIG_PARAMETERS=f"'core.worktree'='{other}'", GIT_NAMESPACE="x",
        GIT_OBJECT_DIRECTORY=str(other / ".git" / "objects"),
    )  # fmt: skip
    assert result.returncode == 0
    assert own != foreign
    assert (project.report()["subject"]["gitCommit"], project.report()["subject"]["dirty"]) == (own, False)


def test_a_monitor_that_a_repository_names_is_not_run(project: Project) -> None:
    folder = project.rows("good").pytester.path
    repository(folder)
    (folder / "monitor.sh").write_text("#!/bin/sh\ntouch ran\n")
    (folder / "monitor.sh").chmod(0o755)
    subprocess.run(["git", "-C", str(folder), "config", "core.fsmonitor", str(folder / "monitor.sh")], check=True)
    assert copied(project).returncode == 0
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("flag", ["--order", "--glasshouse-order"])
def test_a_folder_named_like_an_options_value_is_not_collected(project: Project, flag: str) -> None:
    folder = project.rows("good").pytester.path
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = test_rows.py\n")
    (folder / "raw-first").mkdir()
    (folder / "raw-first" / "conftest.py").write_text("raise RuntimeError('not asked for')")
    assert copied(project, flag, "raw-first").returncode == 0
    assert len(project.report()["rows"]) == 1


def test_a_folder_named_like_an_options_value_with_pytest_settings_is_an_error_of_one_line(project: Project) -> None:
    """pytest has made it the root of everything by then."""
    folder = project.rows("good").pytester.path
    (folder / "mock").mkdir()
    (folder / "mock" / "pytest.ini").write_text("[pytest]\n")
    is_one_line(copied(project, "--provider", "mock"), "--provider mock", "--provider=mock")
    assert copied(project, "--provider=mock").returncode == 0


@pytest.mark.torch
@pytest.mark.skipif(not allowed(*MOUNTS), reason="no mount namespaces here")
def test_a_full_temporary_directory_is_an_error_of_one_line_before_a_guest_is_started(project: Project, temporary: Path) -> None:
    """It used to be exit 10: an allocation that may still exist, and never did."""
    (project.rows("good").pytester.path / "conftest.py").unlink()
    mount = f'mount -t tmpfs -o size=1m none {temporary}; "$@"; code=$?; ls {temporary}; exit $code'
    result = ran(project, prefix=(*MOUNTS, "sh", "-c", mount, "sh"), TMPDIR=str(temporary))
    is_one_line(result, "no room for a guest", "TMPDIR")
    assert not [line for line in result.stdout.splitlines() if line.startswith("gh")]
