"""`glasshouse watch` reads a run's directory, prints what is new, and ends with the run."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.cli.watch import follow
from pytest_glasshouse.run.live_line import cost_words
from pytest_glasshouse.run.progress_file import PROGRESS, ProgressFile, read_progress


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

    assert out.getvalue() == "1 of 2 rows ended\n  b  raw  train  40%\nthe run has ended\n"


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
    assert capsys.readouterr().out == "1 of 2 rows ended\n  b  raw  train  40%\n"
    assert main(["watch", "--once"]) == 0
    assert "1 of 2 rows ended" in capsys.readouterr().out
    assert main(["watch", "run-2", "--once"]) == 4


def test_head_says_what_the_run_has_cost_and_what_is_left(directory: Path) -> None:
    cost = ", ".join([*cost_words(1.5, 20.0, "USD"), *cost_words(None, 3.0, "GPU-hours")])
    ProgressFile(directory / PROGRESS).write({"": "b  raw  train  40%"}, at=9.0, cost=cost)
    out = io.StringIO()
    follow(directory, out, terminal=False, once=True, sleep=lambda _: None)

    assert out.getvalue().splitlines()[0] == "1 of 2 rows ended; 1.50 USD so far, 18.50 left of 20"


def test_file_that_somebody_else_wrote_shows_nothing(directory: Path) -> None:
    for found in ("[]", "{}", '{"workers": [1], "cost": {"a": 1}}'):
        (directory / PROGRESS).write_text(found, "utf-8")
        out = io.StringIO()
        follow(directory, out, terminal=False, once=True, sleep=lambda _: None)
        assert out.getvalue() == "1 of 2 rows ended\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 100, 140])
def test_terminal_has_a_line_for_each_worker_and_none_wraps(
    directory: Path, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was one line of all workers, which wrapped and scrolled at 80 columns."""
    monkeypatch.setenv("COLUMNS", str(columns))
    workers = {f"gw{number}": f"[gw{number}]  {'a-row-of-a-long-name' * 5}  protected  train  40%" for number in range(3)}
    ProgressFile(directory / PROGRESS).write(workers, at=9.0)
    out = Terminal()
    follow(directory, out, terminal=True, once=True, sleep=lambda _: None)

    shown = out.getvalue().splitlines()
    assert len(shown) == 4
    assert max(map(len, shown)) <= columns
    assert [line.strip()[:5] for line in shown[1:]] == ["[gw0]", "[gw1]", "[gw2]"]


def test_block_is_drawn_over_the_one_before(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out, looks = Terminal(), []

    def sleep(_: float) -> None:
        looks.append(1)
        if len(looks) == 1:
            ProgressFile(directory / PROGRESS).write({"": "b  raw  train  80%"}, at=9.0)
        else:
            shutil.rmtree(directory)

    follow(directory, out, terminal=True, once=False, sleep=sleep)

    assert "\x1b[2A\r\x1b[J1 of 2 rows ended\n  b  raw  train  80%\n" in out.getvalue()


def test_row_that_failed_is_the_first_line_and_red(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    record = {"rowId": "a", "name": "a", "outcome": "failed", "reason": "80 copies left", "decision": "", "findings": []}
    (directory / "rows.jsonl").write_text(json.dumps({"list": "excludedResults", "record": record}) + "\n", "utf-8")
    out = Terminal()
    follow(directory, out, terminal=True, once=True, sleep=lambda _: None)

    assert out.getvalue().startswith("\x1b[31mfailed: a: failed: 80 copies left\x1b[0m\n1 of 2 rows ended, 1 failed\n")


def test_progress_is_written_once_a_second_and_never_into_a_run_that_ended(directory: Path) -> None:
    file = ProgressFile(directory / PROGRESS)
    for at in (0.0, 0.5, 0.9):
        file.write({"": f"at {at}"}, at=at)
    assert read_progress(directory).workers == {"": "at 0.0"}
    file.write({"": "later"}, at=1.1)
    assert read_progress(directory).workers == {"": "later"}
    shutil.rmtree(directory)
    file.write({"": "gone"}, at=5.0)
    assert not directory.exists()
