"""`glasshouse watch` reads a run's directory, prints what is new, and ends with the run."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.cli.watch import follow
from pytest_glasshouse.run.progress_file import PROGRESS, ProgressFile


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "reports" / "run-1.run"
    path.mkdir(parents=True)
    (path / "plan.json").write_text(json.dumps({"rows": {"a": "A", "b": "B"}}), "utf-8")
    (path / "rows.jsonl").write_text('{"record": {"rowId": "a"}}\n{"record": {"rowId": "a"}}\n{"torn', "utf-8")
    ProgressFile(path / PROGRESS).write({"": "b  raw  train  40%"}, at=0.0)
    return path


def test_each_change_is_one_line_and_the_end_is_shown(directory: Path) -> None:
    out, looks = io.StringIO(), []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 2:
            shutil.rmtree(directory)

    follow(directory, out, terminal=False, once=False, sleep=sleep)

    assert out.getvalue() == "1 of 2 rows ended  |  b  raw  train  40%\nthe run has ended\n"


def test_nothing_runs_once_every_row_has_ended(directory: Path) -> None:
    (directory / "rows.jsonl").write_text('{"record": {"rowId": "a"}}\n{"record": {"rowId": "b"}}\n', "utf-8")
    out = io.StringIO()
    follow(directory, out, terminal=False, once=True, sleep=lambda _: None)

    assert out.getvalue() == "2 of 2 rows ended\n"


def test_watch_with_once_prints_one_status(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(directory.parent.parent)

    assert main(["watch", "run-1", "--once"]) == 0
    assert capsys.readouterr().out == "1 of 2 rows ended  |  b  raw  train  40%\n"
    assert main(["watch", "run-2", "--once"]) == 4


def test_progress_is_written_once_a_second_and_never_into_a_run_that_ended(directory: Path) -> None:
    file = ProgressFile(directory / PROGRESS)
    for at in (0.0, 0.5, 0.9):
        file.write({"": f"at {at}"}, at=at)
    assert json.loads((directory / PROGRESS).read_text("utf-8")) == {"": "at 0.0"}
    file.write({"": "later"}, at=1.1)
    assert json.loads((directory / PROGRESS).read_text("utf-8")) == {"": "later"}
    shutil.rmtree(directory)
    file.write({"": "gone"}, at=5.0)
    assert not directory.exists()
