"""A row on a host of the user's own, whole: pytest's command line, a real sshd, a real agent, real legs, and nothing left there."""

from __future__ import annotations

import getpass
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import check_file
from tests.limits import HANG_S, until
from tests.live.conftest import REPOSITORY, ROWS, left_running
from tests.live.rented_engine import CONFTEST
from tests.loopback.ssh_host import SshHost
from tests.own_hosts.conftest import cpu_of, launch, provider
from tests.pytest_process import CompiledFiles
from tests.smoke_rows import smoke


@dataclass
class Project:
    """A project with one row, and pytest on it in a process of its own."""

    folder: Path
    environment: Mapping[str, str]

    def start(self, *arguments: str, report: str = "report.json") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--provider", "ssh", "--glasshouse-host", "box"]
        command += ["--glasshouse-remote-python", sys.executable, "--glasshouse-allow-simulated", "--glasshouse-report", report]
        return subprocess.Popen(
            [*command, *arguments], cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=HANG_S)
        return process.returncode, output

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return found


@pytest.fixture
def project(pytester: pytest.Pytester, compiled: CompiledFiles, ssh_host: Callable[..., SshHost]) -> Project:
    ssh_host()
    folder = pytester.path
    (folder / "test_rows.py").write_text(ROWS.format(rows=[("short", "a4000", 0.2)]))
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST.format(folder=str(folder), timing=""))
    inherited = {n: v for n, v in os.environ.items() if not n.startswith(("GLASSHOUSE_", "PYTEST_"))}
    environment = {**inherited, "PYTHONPATH": str(REPOSITORY), **compiled.environment()}
    del environment["PYTHONDONTWRITEBYTECODE"]
    return Project(folder, environment)


def test_row_that_waits_for_its_host_is_carried_out_whole_and_leaves_nothing(project: Project) -> None:
    """It says for whom it waits. That nothing is left is judged by the fixture: disk, locks and process table of the host."""
    ssh = provider("box")
    held = ssh.create(cpu_of("box"), launch=launch("theirs"))
    process = project.start("--glasshouse-queue-timeout", f"{HANG_S:.0f}")
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if f"held by {getpass.getuser()} for run theirs" in line:
            break
    ssh.terminate(held.instance_id)
    output += process.communicate(timeout=HANG_S)[0]
    assert process.returncode == 0, output
    assert "SIMULATED: provider ssh" in output
    report = project.report()
    (row,) = report["rows"]
    assert (row["provider"], row["gpuModel"], row["simulated"], row["publishable"]) == ("ssh", "simulated (CPU)", True, False)
    assert {finding["finding"] for finding in row["findings"]} == {"held"}
    assert report["cleanup"]["status"] == "proven"
    assert check_file(project.folder / "report.json").faults == ()
    everything = b"".join(path.read_bytes() for path in project.folder.rglob("*") if path.is_file())
    assert b"ghk-" not in everything
    assert b"127.0.0.1" not in everything


def test_host_that_somebody_holds_is_infrastructure_and_names_the_holder(project: Project) -> None:
    """Refusing is the default; nothing was judged broken, so trying again is safe: exit 14."""
    ssh = provider("box")
    held = ssh.create(cpu_of("box"), launch=launch("theirs"))
    code, output = project.run()
    assert code == 14, output
    (row,) = project.report()["excludedResults"]
    assert row["outcome"] == "infrastructure"
    assert f"host box: its GPU is held by {getpass.getuser()} for run theirs since" in row["reason"]
    ssh.terminate(held.instance_id)


def test_run_that_is_killed_leaves_a_host_to_its_reaper(project: Project) -> None:
    """SIGKILL: the reaper knows the host by the variables it was started with, from the options of the run."""
    host_disk = provider("box")
    process = project.start("--glasshouse-leg-seconds", "600")
    until(lambda: host_disk.list() != (), "an allocation")
    process.kill()
    process.communicate()
    until(lambda: host_disk.list() == (), "the end by the reaper")
    until(lambda: not left_running(project.folder), "the end of the reaper, for which nothing is left to do")


@pytest.mark.torch
@pytest.mark.skipif(not os.environ.get("SOAK"), reason="six rows with torch take minutes")
def test_the_smoke_rows_run_on_a_host(project: Project) -> None:
    """As a user runs them; that nothing is left on the host is judged after the test."""
    report = smoke(project.folder, project.environment, "--provider=ssh", "--glasshouse-host=box")
    assert {(row["provider"], row["simulated"]) for row in report["rows"]} == {("ssh", True)}
    assert report["cleanup"]["status"] == "proven"
