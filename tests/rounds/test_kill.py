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
#: The archive of a guest whose third leg trains for an hour, whatever it is told: it is killed in the middle on any machine.
_MAIN = """
import sys
from pathlib import Path

from pytest_glasshouse.agent.main import main
from pytest_glasshouse.workloads import loop

honest = loop.measure


def measure(*given, target_s, **named):
    begun = Path.cwd().parents[1] / "begun"
    with begun.open("a") as file:
        file.write("x")
    return honest(*given, target_s=3600 if begun.stat().st_size == 3 else target_s, **named)


loop.measure = measure
sys.exit(main())
"""
#: The engine of a real run with such a guest, which trains with numpy or with torch.
_CONFTEST = """
from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.plugin.stash import ENGINE
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.run.engine import Engine
from tests.numpy_guest.archive import numpy_archive_with
from tests.rounds.test_kill import _MAIN

class PatientEngine(Engine):
    def broker(self, *given, **named):
        broker = super().broker(*given, **named)
        build = {"torch": build_archive, "numpy": numpy_archive_with}["KIND"]
        broker._fleet.providers["mock"] = MockProvider(archive=build({"__main__.py": _MAIN.encode()}))
        return broker

def pytest_configure(config):
    config.stash[ENGINE] = PatientEngine()
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
def _in_the_second_row(project: Path, *, torch: bool) -> Iterator[tuple[subprocess.Popen[str], str, Path]]:
    """A run that is in the middle of its second row's first leg: process, run id, guest directory."""
    (project / "test_rows.py").write_text(_ROWS)
    (project / "pytest.ini").write_text("[pytest]\n")
    (project / "conftest.py").write_text(_CONFTEST.replace("KIND", "torch" if torch else "numpy"))
    command = [sys.executable, "-u", "-m", "pytest", "-p", "no:cacheprovider", "--glasshouse-report", "report.json"]
    command += ["--glasshouse-leg-seconds", "0.2", "--glasshouse-boot-timeout", f"{HANG_S:.0f}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GLASSHOUSE_"))}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
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


# One of them, with the product's own guest: nobody but the guest itself ends its legs.
@pytest.mark.parametrize(
    ("number", "torch"),
    [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGKILL, True)],
    ids=["SIGINT", "SIGTERM", "SIGKILL-torch"],
)
def test_killed_run_leaves_no_guest_and_keeps_finished_rows(number: signal.Signals, torch: bool, tmp_path: Path) -> None:
    """A guest that survives its controller bills for nothing."""
    with _in_the_second_row(tmp_path, torch=torch) as (process, run_id, directory):
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
