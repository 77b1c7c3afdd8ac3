"""`glasshouse doctor` and `glasshouse reap` on hosts of the user's own."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from pytest_glasshouse.cli.main import main
from tests.limits import until
from tests.loopback.ssh_host import SshHost
from tests.own_hosts.conftest import cpu_of, launch, provider


@pytest.fixture(autouse=True)
def the_host(host: SshHost, monkeypatch: pytest.MonkeyPatch) -> SshHost:
    """Named by the variables that an own shell would have."""
    monkeypatch.setenv("GLASSHOUSE_REMOTE_PYTHON", sys.executable)
    for name in ("RUNPOD_API_KEY", "VAST_API_KEY", "GLASSHOUSE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return host


def test_doctor_has_one_line_a_host(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--provider", "ssh", "--host", "box", "--host", "nowhere.invalid", "--allow-simulated"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "host" in line.split(":")[0]]
    assert len(lines) == 2
    assert lines[0].startswith("warn  host box: Python 3.")
    assert "no NVIDIA GPU that nvidia-smi shows" in lines[0]
    assert lines[1].startswith("FAIL  host number 2 of --glasshouse-host: ")
    assert "nowhere" not in lines[1]


def test_doctor_without_a_host_says_where_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--provider", "ssh"]) == 1
    assert "--glasshouse-host" in capsys.readouterr().out


def test_reap_ends_what_a_dead_run_left_and_leaves_living_ones_alone(
    the_host: SshHost, capsys: pytest.CaptureFixture[str]
) -> None:
    """The keeper was killed, so nothing there ends by itself; its name has the deadline."""
    ssh = provider("box")
    dead = ssh.create(cpu_of("box"), launch=launch("dead", deadline_s=30.0))
    (keeper,) = the_host.keepers()
    os.kill(keeper, signal.SIGKILL)
    until(lambda: [one.state for one in ssh.list()] == ["stopped"], "a keeper that is gone")
    alive = ssh.create(cpu_of("box"), launch=launch("alive"))
    assert main(["reap", "--provider", "ssh", "--host", "box", "--run", "dead", "--yes"]) == 0
    output = capsys.readouterr().out
    assert f"ended: {dead.name}" in output
    assert [one.name for one in ssh.list()] == [alive.name]
    assert main(["reap", "--provider", "ssh", "--host", "box", "--expired"]) == 0
    assert [one.name for one in ssh.list()] == [alive.name]
    assert main(["reap", "--host", "box", "--yes"]) == 0
    assert the_host.left() == []


def test_reap_that_cannot_ask_every_host_says_that_something_may_be_left(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reap", "--provider", "ssh", "--host", "box", "--host", "nowhere.invalid", "--expired"]) == 10
    assert "something may be left" in capsys.readouterr().out
