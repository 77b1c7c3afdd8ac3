"""Killing pytest in the middle of a leg leaves no guest behind and loses no finished row."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from pytest_glasshouse.attacks.target_guest import children
from pytest_glasshouse.providers.local_process import list_guests
from tests.limits import HANG_S, until
from tests.pytest_process import CompiledFiles
from tests.rounds import killed_run

_ROWS = """
import pytest
from pytest_glasshouse.rows import RowSpec

# Rows of equal content would be collapsed into one.
ROWS = [RowSpec(name=name, workload="mlp", gpu="anygpu", order="raw-first", target_s=60, margin_pct=margin)
        for name, margin in (("first", 1.0), ("second", 2.0))]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""


def _guests(run_id: str) -> list[str]:
    return [instance.instance_id for instance in list_guests() if run_id in instance.name]


def _directory(pid: int) -> Path | None:
    """Of the guest that this run has started, if it has."""
    for child in children(pid):
        with contextlib.suppress(OSError, ValueError):
            arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            return Path(arguments[arguments.index(b"--directory") + 1].decode())
    return None


def _training(directory: Path) -> bool:
    spool = directory / "spool.jsonl"
    lines = spool.read_text().splitlines() if spool.exists() else []
    begun = [json.loads(line)["leg"] for line in lines if '"type":"spawned"' in line]
    # The third leg is the second row's first; its progress says that it is in the middle of training.
    return len(begun) == 3 and any(f'"leg":"{begun[2]}"' in line and '"type":"progress"' in line for line in lines)


def _drain(output: IO[str]) -> None:
    with output:
        output.read()


def _run_id(output: IO[str]) -> str:
    """From the header of the run; what it prints later is read and dropped."""
    found = next(filter(None, (re.search(r"run (\d{8}-\d{6}-[0-9a-f]+)", line) for line in output)), None)
    threading.Thread(target=_drain, args=(output,), daemon=True).start()
    assert found is not None, "the run never began"
    return found.group(1)


@contextmanager
def _in_the_second_row(
    project: Path, compiled: CompiledFiles, variables: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """A run that is in the middle of its second row's first leg: process, run id, guest directory."""
    (project / "test_rows.py").write_text(_ROWS)
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "conftest.py").write_text(killed_run.CONFTEST)
    command = [sys.executable, "-u", "-m", "pytest", "-p", "no:cacheprovider", "--glasshouse-report", "report.json"]
    command += ["--glasshouse-leg-seconds", "0.2", "--glasshouse-boot-timeout", f"{HANG_S:.0f}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GLASSHOUSE_"))}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), **compiled.environment(), **variables}
    del environment["PYTHONDONTWRITEBYTECODE"]
    with compiled.written(project):
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            assert process.stdout is not None
            run_id = _run_id(process.stdout)
            until(lambda: _directory(process.pid), "the start of a guest")
            directory = _directory(process.pid)
            assert directory is not None
            until(lambda: _training(directory), "training in the second row")
            assert _guests(run_id) == [directory.name]
            yield process, run_id, directory
        finally:
            process.kill()
            process.wait()


_CASES = [(signal.SIGINT, "numpy"), (signal.SIGTERM, "numpy"), (signal.SIGKILL, "numpy")]
#: Nobody but the guest itself ends its legs then. What they train with is no subject of that: torch in `make soak`, by the same code.
_MORE = [(signal.SIGKILL, "torch")]


@pytest.mark.soak
@pytest.mark.parametrize(
    ("number", "guest"),
    _CASES + (_MORE if os.environ.get("SOAK") else []),
    ids=lambda value: value.name if isinstance(value, signal.Signals) else value,
)
def test_killed_run_leaves_no_guest_and_keeps_finished_rows(
    number: signal.Signals, guest: str, tmp_path: Path, compiled: CompiledFiles, kept_bytecode: Path
) -> None:
    """A guest that survives its controller bills for nothing."""
    variables = killed_run.variables(torch=guest == "torch", kept=kept_bytecode)
    with _in_the_second_row(tmp_path, compiled, variables) as (process, run_id, directory):
        process.send_signal(number)
        until(lambda: not _guests(run_id), "the end of every guest")
        process.wait(timeout=HANG_S)
        until(lambda: not directory.exists(), "the end of the guest's directory")
    if number is signal.SIGKILL:
        (journal,) = tmp_path.rglob("rows.jsonl")
        assert "first" in journal.read_text()
    else:
        report = json.loads((tmp_path / "report.json").read_text())
        assert [row["name"] for row in report["rows"]] == ["first"]
        assert [(row["name"], row["outcome"]) for row in report["excludedResults"]] == [("second", "lost")]
        assert report["cleanup"]["status"] == "proven"
        assert process.returncode == pytest.ExitCode.INTERRUPTED
