"""Where a report goes is looked at before the first row, and what is there stays what it is."""

from __future__ import annotations

import json
import os
import stat
import threading
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.cli.main import main
from tests.limits import HANG_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugin.conftest import Project


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("x" * 300 + ".json", ()),
        ("x" * 245 + ".json", ()),  # its bundle's name would be too long
        ("x" * 242, ("--glasshouse-html",)),
        (".", ()),
        ("loop", ()),
        ("conftest.py/report.json", ()),
        ("bundled", ()),
        ("pipe", ("--glasshouse-html",)),
    ],
    ids=["long", "long bundle", "long page", "directory", "loop", "below a file", "bundle is a directory", "page of a pipe"],
)
def test_path_that_cannot_be_written_is_refused_before_anything_runs(project: Project, path: str, more: tuple[str, ...]) -> None:
    here = project.rows("good").pytester.path
    (here / "loop").symlink_to("loop")
    (here / "bundled.glasshouse.zip").mkdir()
    os.mkfifo(here / "pipe")
    result = project.run("--glasshouse-report", path, *more)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--glasshouse-report*"])
    assert len([line for line in result.errlines if line]) == 1
    assert project.asked("acquire") == []


def test_report_goes_through_a_pipe_and_leaves_nothing_beside_it(project: Project) -> None:
    here = project.rows("good").pytester.path
    pipe, read = here / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    result = project.run("--glasshouse-report", "pipe")
    reader.join(HANG_S)

    assert result.ret == 0
    assert len(json.loads(read[0])["rows"]) == 1
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert not list(here.glob("pipe?*"))
    assert not list(here.glob("*.run"))
    assert project.left_behind() == []


def test_report_behind_a_link_is_replaced_and_the_link_stays(project: Project) -> None:
    here = project.rows("good").pytester.path
    (here / "kept").mkdir()
    target = here / "kept" / "latest.json"
    target.write_text("old", "utf-8")
    target.chmod(0o640)
    (here / "link.json").symlink_to("kept/latest.json")
    assert project.run("--glasshouse-report", "link.json").ret == 0

    assert (here / "link.json").is_symlink()
    assert len(json.loads(target.read_text("utf-8"))["rows"]) == 1
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    assert (here / "link.glasshouse.zip").is_file()


@pytest.mark.parametrize(
    "command",
    [
        ("render", "REPORT", "--markdown", "--out", "OUT"),
        ("render", "REPORT", "--badge", "--out", "OUT"),
        ("export", "BUNDLE", "--row", "good", "--out", "OUT"),
        ("policy", "capture", "--container", "x", "--out", "OUT"),
        ("seal", "conftest.py", "--owner", "OWNER", "--out", "OUT"),
        ("keygen", "OUT"),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_every_command_refuses_a_path_it_cannot_write(
    tmp_path: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conftest.py").write_text("", "utf-8")
    assert main(["keygen", "owner"]) == 0
    named = {"OWNER": "owner", "REPORT": "none.json", "BUNDLE": "none.json"}
    for out in ("x" * 300, ".", "no/such/file" if command[0] != "keygen" else "conftest.py/x"):
        capsys.readouterr()
        assert main([named.get(argument, out if argument == "OUT" else argument) for argument in command]) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert out in line or "--out" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conftest.py", "owner", "owner.pub"]


def test_report_is_not_rendered_over_itself(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.rows("good").run()
    (path,) = project.reports()
    before = path.read_bytes()
    assert main(["render", str(path), "--markdown", "--out", str(path)]) == 4
    assert path.read_bytes() == before
