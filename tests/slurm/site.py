"""A project with rows, the tests' Slurm, and pytest between them: `run` in this process, `spawn` in one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HANG_S, until
from tests.slurm.cluster import Cluster
from tests.slurm.engine import CONFTEST

ROWS = """
import pytest
from pytest_glasshouse.invariants import assert_held, attestation_verified, raw_callback_completed, runtime_zeroized
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=f"row{{place}}", workload="mlp", gpu="h100", gpus={gpus}, nodes={nodes}, order={order!r}, {work},
                margin_pct=1.0 + place) for place, target in enumerate({seconds!r})]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
    assert_held(outcome, attestation_verified, runtime_zeroized, raw_callback_completed)
"""


@dataclass(frozen=True)
class Ran:
    """One pytest run that ended."""

    code: int
    output: str
    report: dict[str, Any]

    @property
    def reasons(self) -> list[str]:
        """Of rows that were not measured."""
        return [row["reason"] for row in self.report.get("excludedResults", [])]

    @property
    def outcomes(self) -> list[str]:
        return [row["outcome"] for row in self.report.get("excludedResults", [])]


@dataclass
class Site:
    """See the module. `seconds`: how long the legs of each row train."""

    slurm: Cluster
    pytester: pytest.Pytester
    environment: Mapping[str, str]
    seconds: Sequence[float] = (0.2,)
    gpus: int = 1
    nodes: int = 1
    order: str = "protected-first"
    work: str = "target_s=target, warmup_s=0.05"
    torch: bool = False
    """Whether guests train with torch, and rest nowhere: nothing in it is the tests'."""
    ini: str = ""
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        return self.pytester.path

    def run(self, *arguments: str, meanwhile: Callable[[], None] = lambda: None) -> Ran:
        """For tests whose subject is what becomes of the row, and not the process."""
        self.write()
        thread = threading.Thread(target=meanwhile)
        thread.start()
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name in os.environ.keys() - self.environment.keys():
                    patch.delenv(name)
                for name, value in self.environment.items():
                    patch.setenv(name, value)
                result = self.pytester.runpytest_inprocess(*self.arguments(*arguments))
        finally:
            self.over.set()
            thread.join()
        return Ran(int(result.ret), f"{result.stdout}\n{result.stderr}", self.report())

    def spawn(self, *arguments: str) -> subprocess.Popen[str]:
        """As a user runs it."""
        self.write()
        return subprocess.Popen(
            [sys.executable, "-m", "pytest", *self.arguments(*arguments)], cwd=self.folder, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ended(self, process: subprocess.Popen[str]) -> Ran:
        output, _ = process.communicate(timeout=HANG_S)
        return Ran(process.returncode, output, self.report())

    def report(self) -> dict[str, Any]:
        path = self.folder / "reports" / "report.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def arguments(self, *more: str) -> list[str]:
        return [
            "-p", "no:cacheprovider", "--provider", "slurm", "--glasshouse-allow-simulated",
            f"--glasshouse-remote-python={sys.executable}", f"--glasshouse-report={self.folder}/reports/report.json", *more,
        ]  # fmt: skip

    def write(self) -> None:
        (self.folder / "test_rows.py").write_text(
            ROWS.format(seconds=list(self.seconds), gpus=self.gpus, nodes=self.nodes, order=self.order, work=self.work)
        )
        (self.folder / "pytest.ini").write_text(f'[pytest]\nglasshouse_slurm_gres = h100 = "gpu:h100:1"\n{self.ini}\n')
        (self.folder / "conftest.py").write_text("" if self.torch else CONFTEST)

    def jobs(self) -> tuple[str, ...]:
        """The ids of this project's jobs that wait or run."""
        lines = self.slurm.run("squeue", "-h", "-o", "%i %j %T", check=False).splitlines()
        return tuple(line.split()[0] for line in lines if " glasshouse-" in line)

    def until_training(self) -> str:
        """Wait until the first leg trains; the id of its job. Empty where the run is over before."""
        until(lambda: self.over.is_set() or self._training(), "a leg that trains")
        return next(iter(self.jobs()), "")

    def _training(self) -> bool:
        return any(
            path.exists() and "train_progress" in path.read_text()
            for path in left_on_disk(self.slurm.names(), "agent/spool.jsonl")
        )

    def occupy(self, *options: str) -> tuple[str, ...]:
        """Take every GPU; the ids of the jobs that have them."""
        command = ("sbatch", "--parsable", "--gres=gpu:h100:1", "--output=/dev/null", "--chdir=/", "--time=60", *options)
        ids = tuple(self.slurm.run(*command, "--wrap", "exec sleep 3600").strip() for _ in self.slurm.nodes)
        until(lambda: all(self.slurm.states().get(each) == "RUNNING" for each in ids), "jobs that have every GPU")
        return ids


def left_on_disk(names: Iterable[str], below: str = "") -> list[Path]:
    """The directories on this machine of the jobs with these names."""
    return [path / below for name in names for path in Path(tempfile.gettempdir()).glob(f"{name}.*")]


def left_running(names: Iterable[str]) -> list[str]:
    """The command lines of what runs on this machine of the jobs with these names."""
    found, wanted = [], [name.encode() for name in names]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if any(name in command for name in wanted):
                    found.append(command.replace(b"\0", b" ").decode(errors="replace")[:200])
    return found
