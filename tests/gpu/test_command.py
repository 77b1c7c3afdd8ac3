"""`make gpu` as a whole: one line where there is no GPU, and otherwise its steps, rehearsed here with numpy on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.plan import Setting, steps
from pytest_glasshouse.check.check import check_bytes
from tests.numpy_guest.bytecode import keep_in_cache
from tests.numpy_guest.engine import KEPT
from tests.pytest_process import compiled_files

ROOT = Path(__file__).parents[2]
#: By the limit of a place that lends a GPU.
EIGHT_MINUTES_S = 480.0


def test_without_a_gpu_it_says_in_one_line_what_it_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "gpus", list)
    assert command.main([]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    for needed in ("an NVIDIA GPU", "torch for CUDA", "make gpu-wheels"):
        assert needed in line


def test_a_gpu_and_nothing_installed_is_one_line_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, "gpus", lambda: ["NVIDIA H200"])
    monkeypatch.setattr(command, "missing", lambda _python: "torch: ModuleNotFoundError")
    assert command.main(["--wheels", str(tmp_path), "--work", str(tmp_path / "work")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    assert "lacks torch: ModuleNotFoundError" in line


def test_what_ran_on_another_gpu_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "machine.json").write_text(json.dumps({"GPU": "NVIDIA A100"}))
    (tmp_path / "results" / "local.json").write_text("{}")
    command._forget(tmp_path, sys.executable, "NVIDIA A100")
    assert (tmp_path / "results" / "local.json").exists()
    command._forget(tmp_path, sys.executable, "NVIDIA H200")
    assert not (tmp_path / "results").exists()


def test_an_environment_that_is_gone_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "environment.json").write_text("{}")
    command._forget(tmp_path, str(tmp_path / "no" / "python"), "")
    assert not (tmp_path / "results" / "environment.json").exists()


def test_a_gpu_that_rows_name_is_named_and_its_smoke_rows_are_chosen() -> None:
    found = {each.name: each for each in steps(Setting(tree=ROOT, work=Path("w"), python="python", gpu="h100"), wheels=None)}
    assert any(each.startswith("smoke and (anygpu or h100)") for each in found["local"].command)
    assert json.loads(found["interleaved"].env["GPU_ROWS"]) == {"gpu": "h100"}
    assert {"cuda", "local"} <= {*found["cuda-tests"].command, *found["local"].command}
    assert all(0 < each.limit_s < EIGHT_MINUTES_S for each in found.values())


def test_its_own_limit_is_below_eight_minutes() -> None:
    assert command._options([]).total_seconds < EIGHT_MINUTES_S


def test_rows_of_a_large_model_get_random_weights_of_its_shape_or_are_not_run(tmp_path: Path) -> None:
    """They cannot be fetched where there is no network; a version without the option for them says so."""
    settings = tmp_path / "pytest_glasshouse" / "plugin" / "settings.py"
    settings.parent.mkdir(parents=True)
    for content, runs in (("", False), ('    Setting("stand_in", _one_of(STAND_INS),', True)):
        settings.write_text(content, encoding="utf-8")
        found = {each.name: each for each in steps(Setting(tree=tmp_path, work=tmp_path, python="python"), wheels=None)}
        assert bool(found["lora-large"].unavailable) is not runs
        assert (list(found["lora-large"].command)[-6:-4] == ["--glasshouse-stand-in", "7b"]) is runs
        assert any(each.endswith(" and mlp") for each in found["local"].command) is not runs


#: Each step of a rehearsal with what the summary has to say of it; what trains a model is left out.
_MACHINE = {
    "environment": "| environment | passed |", "machine": "| machine | passed |", "doctor": "| doctor | passed |",
    "probes": "idle: ", "cuda-tests": "| cuda-tests | passed |",
}  # fmt: skip
_ROWS = {"local": "15 of 15 held", "mock": "| mock | passed |"}
_TURNS = {"interleaved": "spread of process starts", "null": "raw against raw"}


def test_the_rehearsals_below_are_of_every_step_but_one() -> None:
    own = {each.name for each in steps(Setting(tree=ROOT, work=Path("w"), python="", rehearse=True), wheels=None)}
    assert own - (_MACHINE.keys() | _ROWS.keys() | _TURNS.keys()) == {"lora-large"}


@pytest.mark.torch
@pytest.mark.parametrize("own", [_MACHINE, _ROWS, _TURNS], ids=["machine", "rows", "turns"])
def test_steps_run_in_a_rehearsal_and_leave_a_summary(
    own: dict[str, str], tmp_path: Path, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same code as on a GPU, with small sizes, `mock` in place of `local`, and guests that need no torch, and train no model."""
    work, out = tmp_path / "work", tmp_path / "out"
    environ = {**os.environ, **compiled_files().environment()}
    environ = {name: value for name, value in environ.items() if not name.startswith(("GLASSHOUSE_", "PYTHONDONTWRITE"))}
    environ |= {"PYTEST_ADDOPTS": "-p tests.numpy_guest.plugin", "OPENBLAS_NUM_THREADS": "1"}
    environ[KEPT] = str(keep_in_cache(pytestconfig, tmp_path_factory))
    arguments = ["--rehearse", "--work", str(work), "--out", str(out), "--total-seconds", "10000", "--only", ",".join(own)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert {path.stem: json.loads(path.read_text())["status"] for path in (work / "results").iterdir()} == dict.fromkeys(
        own, "passed"
    )
    text = (out / "summary.md").read_text()
    for step, part in own.items():
        assert f"| {step} | passed |" in text
        assert part in text
    reports = list(out.glob("*-cpu-*.json"))
    assert len(reports) == (0 if own is _MACHINE else len(own))
    for report in reports:
        assert check_bytes(report.read_bytes()).sound, report.name
