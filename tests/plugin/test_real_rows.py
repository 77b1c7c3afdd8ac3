"""Whole rows on the mock provider, through the real engine: a guest, an attestation server, two legs, a report.

The guest of the first test is the product's own, which trains with torch; those of the others train with numpy.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.render.tables import ran_on, scaling_text
from tests.limits import HANG_S
from tests.numpy_guest import engine
from tests.numpy_guest.bytecode import keep_in_cache
from tests.plugin.retries import RETRIES

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

ROW = """
import pytest
from pytest_glasshouse.invariants import assert_held, attestation_verified, raw_callback_completed, runtime_zeroized
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=f"mlp-{order}", workload="mlp", gpu="anygpu", order=order, target_s=60) for order in ("raw-first", "protected-first")]

@pytest.mark.parametrize("row", ROWS)
def test_mlp(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, attestation_verified, runtime_zeroized, raw_callback_completed)
"""


#: Limits of the product that are no subject here: a busy machine boots and trains as slowly as it likes.
PATIENT = ("--glasshouse-boot-timeout", str(HANG_S), "--glasshouse-leg-timeout", str(HANG_S))
SHORT = ("--glasshouse-leg-seconds", "0.3", *PATIENT)


@pytest.fixture
def real(project: Project) -> Project:
    """A project without an engine of its own."""
    (project.pytester.path / "conftest.py").unlink()
    project.pytester.makepyfile(test_mlp=ROW)
    return project


@pytest.fixture
def with_numpy(
    project: Project,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Project:
    """A project whose engine differs from the product's in what its guests train with, and find compiled."""
    monkeypatch.setenv(engine.KEPT, str(keep_in_cache(request.config, tmp_path_factory)))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    project.pytester.makeconftest(engine.CONFTEST)
    project.pytester.makepyfile(test_mlp=ROW)
    return project


@pytest.mark.torch
def test_row_is_measured_on_the_guest_that_users_start(real: Project) -> None:
    result = real.spawn("-k", "protected-first", *SHORT)
    assert result.ret == pytest.ExitCode.OK
    (row,) = real.report()["rows"]
    assert row["workloadFacts"][0]["protected"]["torchVersion"] == metadata.version("torch")
    _is_measured(row)


def test_rows_are_measured_in_both_orders_and_the_report_recomputes(with_numpy: Project) -> None:
    result = with_numpy.fork(*SHORT)
    assert result.ret == pytest.ExitCode.OK
    report = with_numpy.report()
    assert [row["order"] for row in report["rows"]] == ["raw-first", "protected-first"]
    for row in report["rows"]:
        _is_measured(row)
    assert report["cleanup"]["status"] == "proven"


def _is_measured(row: dict[str, Any]) -> None:
    _recomputes(row)
    assert (row["dryRun"], row["publishable"]) == (True, False)
    assert row["waived"] == []
    assert row["strictMemory"] is False
    assert min(row["scanSec"], row["exposureByteSec"], row["exposurePeakBytes"]) > 0
    assert "H100" not in row["gpuModel"]


def _recomputes(row: dict[str, Any]) -> None:
    rates = [row[f"{leg}Units"] / row[f"{leg}ElapsedSec"] for leg in ("protected", "raw")]
    assert round((1 - rates[0] / rates[1]) * 100, 2) == pytest.approx(round(row["overheadPct"], 2), abs=0.011)


def test_lost_raw_callback_excludes_the_row_with_reason_and_decision(with_numpy: Project) -> None:
    """The published exclusion, reproduced."""
    result = with_numpy.fork("-k", "protected-first", *SHORT, "--glasshouse-mock-fault", "raw-callback-lost")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (row,) = with_numpy.report()["excludedResults"]
    assert (row["outcome"], row["runtimeState"], row["rawCallback"]) == ("excluded", "zeroized", "lost")
    assert "overheadPct" not in json.dumps(row)
    assert with_numpy.report()["cleanup"]["status"] == "proven"


AGAIN = """
import os, pathlib, pytest, signal
from pytest_glasshouse.rows import RowSpec

ROW = RowSpec(name="mine", workload="mlp", gpu="anygpu", order="protected-first", target_s=60)

@pytest.mark.parametrize("batch", [8])
@pytest.mark.parametrize("row", [ROW])
def test_mlp(row, batch, allocation, protected_runtime, raw_runner, row_report):
    again = pathlib.Path("again").exists()
    pathlib.Path("again").touch()
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
    if again:
        os.kill(os.getpid(), signal.SIGKILL)
    assert again, "the first attempt fails after it is recorded"
"""


def test_row_retried_in_a_worker_reports_every_attempt_and_the_report_checks(with_numpy: Project) -> None:
    """The worker's server counts them too, and both are known although nothing was reported before the worker was killed."""
    with_numpy.pytester.makeconftest(engine.CONFTEST + RETRIES)
    (with_numpy.pytester.path / "test_mlp.py").write_text(AGAIN, "utf-8")
    result = with_numpy.fork("-n1", *SHORT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED

    (row,) = with_numpy.report()["rows"]
    assert row["parameters"] == {"batch": "8"}
    attempts = [(each["outcome"], each["serverAttempt"], each["stands"]) for each in row["attempts"]]
    assert attempts == [("measured", 1, True), ("measured", 2, False)]
    assert row["overheadPct"] == row["attempts"][0]["overheadPct"]
    data = with_numpy.reports()[0].read_bytes()
    assert check_bytes(data).faults == ()

    hidden = json.loads(data)
    hidden["rows"][0]["attempts"][0]["overheadPct"] += 1
    assert any(fault.path == "$.rows[0].attempts[0]" for fault in check_bytes(json.dumps(hidden).encode()).faults)


def test_guest_that_does_not_boot_is_an_error_that_is_safe_to_retry(with_numpy: Project) -> None:
    result = with_numpy.fork("-k", "raw-first", "--glasshouse-mock-fault", "boot-stall", "--glasshouse-boot-timeout", "1")
    assert result.ret == 14
    result.stdout.fnmatch_lines(["*did not boot: expected its agent within 1 s, saw no answer*"])
    (row,) = with_numpy.report()["excludedResults"]
    assert row["outcome"] == "infrastructure"


def test_row_that_init_writes_passes_as_it_is(with_numpy: Project) -> None:
    """The first row of a newcomer: every invariant is asserted, because it names none."""
    folder = with_numpy.pytester.path
    (folder / "test_mlp.py").unlink()
    assert main(["init", str(folder), "--no-workflows"]) == 0

    result = with_numpy.spawn("rows", *SHORT)

    result.assert_outcomes(passed=1)
    assert [(row["name"], len(row["findings"])) for row in with_numpy.report()["rows"]] == [("first", 15)]


def test_row_of_two_gpus_is_measured_and_its_scaling_recomputes(with_numpy: Project) -> None:
    """What follows from two ranks follows from the report alone, and nothing else does."""
    with_numpy.pytester.makepyfile(test_mlp=ROW.replace('gpu="anygpu",', 'gpu="anygpu", gpus=2,'))
    result = with_numpy.fork("-k", "protected-first", *SHORT)
    assert result.ret == pytest.ExitCode.OK, result.outlines
    report = with_numpy.report()
    (row,) = report["rows"]
    scaling = row["scaling"]
    assert (row["gpus"], scaling["gpus"], row["observation"]["plan"]["gpus"]) == (2, 2, 2)
    assert scaling["rawPerSecPerGpu"] == pytest.approx(row["rawPerSec"] / 2)
    assert all(0 < spent < row["rawElapsedSec"] for spent in scaling["rawCollectiveSec"])
    assert ran_on(row).startswith("2 x ")
    assert str(scaling_text(row)).count("/s and GPU, collectives ") == 2
    assert check_bytes(json.dumps(report).encode()).faults == ()
    for path, value in (("gpus", 4), ("gpus", None), ("scaling", None), ("scaling", {**scaling, "rawPerSecPerGpu": 1.0})):
        changed = json.loads(json.dumps(report))
        if value is None:
            del changed["rows"][0][path]
        else:
            changed["rows"][0][path] = value
        faults = [fault.path for fault in check_bytes(json.dumps(changed).encode()).faults]
        assert any(path in fault for fault in faults), (path, faults)
