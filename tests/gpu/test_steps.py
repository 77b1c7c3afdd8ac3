"""Steps of `make gpu`: each result in a file, a limit for each and for all, and a second call that runs what has not passed."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu.steps import Runner, Step, StepResult
from tests.limits import HANG_S, until

PASSES, FAILS = [sys.executable, "-c", ""], [sys.executable, "-c", "raise SystemExit(3)"]


def step(name: str, command: Sequence[str] = PASSES, **fields: object) -> Step:
    return Step(name=name, what=name, command=command, **{"limit_s": HANG_S, **fields})  # type: ignore[arg-type]


def run(work: Path, *steps: Step, total_s: float = 10 * HANG_S) -> list[StepResult]:
    return Runner(tree=work, work=work, total_s=total_s, commit="c0ffee", tell=lambda _line: None).run(steps)


def counting(work: Path, name: str, code: int = 0) -> list[str]:
    """A command that leaves a line in a file each time it runs."""
    return [sys.executable, "-c", f"open({str(work / name)!r}, 'a').write('x'); raise SystemExit({code})"]


def times(work: Path, name: str) -> int:
    return len((work / name).read_text()) if (work / name).exists() else 0


def test_a_failed_step_does_not_stop_the_later_ones(tmp_path: Path) -> None:
    results = run(tmp_path, step("one"), step("two", FAILS), step("three"))
    assert [(each.status, each.exit) for each in results] == [("passed", 0), ("failed", 3), ("passed", 0)]


def test_each_result_is_a_file(tmp_path: Path) -> None:
    run(tmp_path, step("one"), step("two", FAILS))
    told = {name: json.loads((tmp_path / "results" / f"{name}.json").read_text()) for name in ("one", "two")}
    assert (told["one"]["status"], told["two"]["status"], told["two"]["exit"]) == ("passed", "failed", 3)
    assert told["one"]["commit"] == "c0ffee"


def test_a_second_call_runs_what_has_not_passed(tmp_path: Path) -> None:
    run(tmp_path, step("good", counting(tmp_path, "good")), step("bad", counting(tmp_path, "bad", 1)))
    results = run(
        tmp_path,
        step("good", counting(tmp_path, "good")),
        step("bad", counting(tmp_path, "bad")),
        step("new", counting(tmp_path, "new")),
    )
    assert [each.status for each in results] == ["passed"] * 3
    assert [times(tmp_path, name) for name in ("good", "bad", "new")] == [1, 2, 1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "passed"}', '{"name": 1, "status": "passed", "more": 2}'])
def test_a_result_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "one.json").write_text(content)
    run(tmp_path, step("one", counting(tmp_path, "one")))
    assert times(tmp_path, "one") == 1


def test_a_step_that_hangs_is_stopped_with_all_it_started(tmp_path: Path) -> None:
    """A guest that outlives its step would hold the GPU's memory."""
    waits = "import os, signal, time; signal.signal(signal.SIGTERM, lambda *_: os._exit(0)) if os.fork() else None; "
    code = waits + f"open({str(tmp_path / 'pids')!r}, 'a').write(f'{{os.getpid()}} '); time.sleep({HANG_S})"
    results = run(tmp_path, step("hangs", [sys.executable, "-c", code], limit_s=2.0), step("next"))
    assert [each.status for each in results] == ["stopped", "passed"]
    for pid in (tmp_path / "pids").read_text().split():
        until(lambda pid=pid: _gone(int(pid)), f"the end of {pid}")  # type: ignore[misc]


def _gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z" and os.getpid() != pid


def test_what_the_total_limit_has_no_time_for_is_not_run(tmp_path: Path) -> None:
    """Each reading of this clock is a minute later: the second step finds nothing left."""
    minutes = itertools.count(0.0, 60.0)
    runner = Runner(tree=tmp_path, work=tmp_path, total_s=200.0, tell=lambda _line: None, monotonic=lambda: next(minutes))
    results = runner.run([step("one"), step("two", counting(tmp_path, "two"))])
    assert [each.status for each in results] == ["passed", "not run"]
    assert (results[1].why, times(tmp_path, "two")) == ("0 s were left of 200", 0)


def test_a_step_that_is_not_available_says_why_and_is_not_run(tmp_path: Path) -> None:
    (result,) = run(tmp_path, step("one", counting(tmp_path, "one"), unavailable="there is no such option"))
    assert (result.status, result.why, times(tmp_path, "one")) == ("not run", "there is no such option", 0)


def test_what_a_step_prints_is_kept(tmp_path: Path) -> None:
    run(tmp_path, step("one", [sys.executable, "-c", "import os; print(os.environ['SAID'])"], env={"SAID": "hello"}))
    assert (tmp_path / "one.log").read_text() == "hello\n"
