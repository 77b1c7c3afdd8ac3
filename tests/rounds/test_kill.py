"""Killing pytest in the middle of a leg leaves no guest behind and loses no finished row."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

import pytest

from pytest_glasshouse.providers.local_process import list_guests

_ROWS = """
import pytest
from pytest_glasshouse.invariants import assert_held, raw_callback_completed
from pytest_glasshouse.rows import RowSpec

# Rows of equal content would be collapsed into one.
ROWS = [RowSpec(name=name, workload="mlp", gpu="anygpu", order="raw-first", target_s=60, margin_pct=margin)
        for name, margin in (("first", 1.0), ("second", 2.0))]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""
_DEADLINE_S = 60.0
_GONE_WITHIN_S = 15.0


def _wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def _guests(run_id: str) -> list[str]:
    return [instance.instance_id for instance in list_guests() if run_id in instance.name]


def _training(directory: Path) -> bool:
    spool = directory / "spool.jsonl"
    lines = spool.read_text().splitlines() if spool.exists() else []
    begun = [json.loads(line)["leg"] for line in lines if '"type":"spawned"' in line]
    # The third leg is the second row's first; its progress says that it is in the middle of training.
    return len(begun) == 3 and any(f'"leg":"{begun[2]}"' in line and '"type":"progress"' in line for line in lines)


def _drain(output: IO[str]) -> None:
    with output:
        output.read()


def _start(project: Path, *options: str) -> tuple[subprocess.Popen[str], str, Path]:
    """A run that is in the middle of its second row's first leg: process, run id, guest directory."""
    (project / "test_rows.py").write_text(_ROWS)
    (project / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-u", "-m", "pytest", "-p", "no:cacheprovider", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GLASSHOUSE_"))}
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    run_id = ""
    for line in process.stdout:
        found = re.search(r"run (\d{8}-\d{6}-[0-9a-f]+)", line)
        if found:
            run_id = found.group(1)
            break
    threading.Thread(target=_drain, args=(process.stdout,), daemon=True).start()
    until = time.monotonic() + _DEADLINE_S
    while time.monotonic() < until:
        for instance_id in _guests(run_id) if run_id else []:
            directory = Path("/tmp") / instance_id
            if _training(directory):
                return process, run_id, directory
        _wait(0.05)
    process.kill()
    raise AssertionError("the second row never trained")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_killed_run_leaves_no_guest_and_keeps_finished_rows(number: signal.Signals, tmp_path: Path) -> None:
    """A guest that survives its controller bills for nothing."""
    process, run_id, directory = _start(tmp_path, "--glasshouse-leg-seconds", "4", "--glasshouse-report", "report.json")
    killed = time.monotonic()
    process.send_signal(number)
    while _guests(run_id) and time.monotonic() - killed < _GONE_WITHIN_S:
        _wait(0.05)
    assert _guests(run_id) == []
    process.wait(timeout=_DEADLINE_S)
    until = time.monotonic() + _GONE_WITHIN_S
    while directory.exists() and time.monotonic() < until:
        _wait(0.05)
    assert not directory.exists()
    if number is signal.SIGKILL:
        (journal,) = tmp_path.rglob("rows.jsonl")
        assert "first" in journal.read_text()
    else:
        report = json.loads((tmp_path / "report.json").read_text())
        assert [row["name"] for row in report["rows"]] == ["first"]
        assert [(row["name"], row["outcome"]) for row in report["excludedResults"]] == [("second", "lost")]
        assert report["cleanup"]["status"] == "proven"
        assert process.returncode == pytest.ExitCode.INTERRUPTED
