"""A whole run beside an NVIDIA driver: what keeps torch from the GPU is one line, and a dry run says that it used the CPU.

The driver is the stand-in for NVML; this machine's torch, or the numpy guest's in its place, is built without CUDA.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.plugin.terminal import dry_runs
from tests.numpy_guest.bytecode import keep_in_cache
from tests.numpy_guest.engine import CONFTEST, KEPT

if TYPE_CHECKING:
    from tests.fake_nvml.driver import Driver
    from tests.plugin.conftest import Project

ROOT = Path(__file__).parents[2]


@pytest.fixture
def beside_a_driver(
    project: Project,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    (project.path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(driver.folder))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(KEPT, str(keep_in_cache(request.config, tmp_path_factory)))
    return project.rows(("good", "anygpu", "raw-first"))


@pytest.mark.torch
def test_own_gpu_that_torch_cannot_use_is_one_line_and_nothing_is_started(beside_a_driver: Project) -> None:
    result = beside_a_driver.spawn("--provider", "local")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = (line for line in result.errlines + result.outlines if line.strip())
    assert line.startswith("ERROR: provider local: expected an NVIDIA GPU that torch can train on; torch 2")
    assert beside_a_driver.reports() == []


def test_dry_run_beside_a_driver_passes_on_the_cpu_and_says_why(beside_a_driver: Project) -> None:
    result = beside_a_driver.spawn("--provider", "mock", "--glasshouse-leg-seconds", "0.2")
    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    said = "glasshouse: the legs trained on the CPU: torch 0 is built without CUDA; install a build for CUDA"
    assert said in result.outlines
    (row,) = beside_a_driver.report()["rows"]
    assert (row["gpuModel"][:5], row["gpuUuid"]) == ("CPU (", None)
    assert {each["finding"] for each in row["findings"]} == {"held"}


def test_rows_of_other_gpus_are_counted_in_the_last_line() -> None:
    """They passed no gate, though every test of them is green."""
    records: Any = [{"record": {"dryRun": dry}} for dry in (True, False, True)]
    assert dry_runs(records) == "2 of 3 rows name another GPU than this machine's: dry runs, not a gate"
    assert dry_runs(records[1:2]) == ""
