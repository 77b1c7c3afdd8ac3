"""Streams into a job of a real Slurm: the job's first process, the bridge that `srun` runs on its node, and the forwarder here."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.channel import stream_forwarder
from pytest_glasshouse.channel.job_init import remove_left_behind
from pytest_glasshouse.channel.job_launch import bridge_command, job_script
from tests.limits import HANG_S, until
from tests.slurm.cluster import Cluster

if TYPE_CHECKING:
    from pytest_glasshouse.channel.job_init import JobSettings

_ECHO = """
import socket, sys, threading
def echo(connection):
    with connection:
        while piece := connection.recv(65536):
            connection.sendall(piece)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
"""


class Job:
    """A job that runs the real first process and nothing else."""

    def __init__(self, slurm: Cluster, **changed: float) -> None:
        self.slurm = slurm
        self.name = f"glasshouse-streams-{os.getpid()}-{int(time.time() * 1000) % 10_000}-{int(time.time()) + 600}"
        settings: JobSettings = {
            "name": self.name, "nodes": 1, "prefix": "glasshouse-", "deadline": time.time() + changed.get("deadline", 600),
            "contact_by": time.time() + 600, "lease_s": 600,
        }  # fmt: skip
        done = subprocess.run(
            ["sbatch", "--parsable", "--gres=gpu:h100:1", f"--job-name={self.name}", "--output=/dev/null", "--chdir=/", "--time=10"],
            input=job_script(settings, python=sys.executable), text=True, capture_output=True, check=True, timeout=HANG_S,
        )  # fmt: skip
        self.id = done.stdout.strip()
        until(lambda: slurm.states().get(self.id) == "RUNNING" and self.folders(), "a job that runs")
        until(lambda: f"@{self.name}" in Path("/proc/net/unix").read_text(), "a first process that listens")

    def folders(self) -> list[Path]:
        return list(Path(tempfile.gettempdir()).glob(f"{self.name}.*"))

    def command(self, request: Mapping[str, object]) -> list[str]:
        step = ["srun", "--jobid", self.id, "--overlap", "-N1", "-n1", "--quiet", "--unbuffered", "--mpi=none", "--chdir=/"]
        return [*step, *bridge_command(self.name, request, python=sys.executable)]

    def processes(self) -> list[int]:
        """Everything whose command line or folder is this job's."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and self.name.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def listens(self) -> str:
        """An echo in the job; the path of its socket."""
        path = f"{self.folders()[0]}/echo.sock"
        request = {"run": [sys.executable, "-c", _ECHO, path]}
        self.echo = subprocess.Popen(self.command(request), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        until(Path(path).exists, "an echo that listens")
        return path

    def close(self) -> None:
        if hasattr(self, "echo"):
            self.echo.kill()
            self.echo.communicate()
        self.slurm.run("scancel", self.id, check=False)
        until(lambda: self.id not in self.slurm.living(), "the end of the job")


@pytest.fixture
def job(slurm: Cluster) -> Iterator[Job]:
    made = Job(slurm)
    yield made
    made.close()


def test_what_is_sent_into_a_job_comes_back_as_it_was(job: Job) -> None:
    """Eight MiB of every byte there is, through srun, in both directions at once."""
    sent = bytes(range(256)) * (8 << 12)
    done = subprocess.run(job.command({"run": ["cat"]}), input=sent, capture_output=True, check=True, timeout=HANG_S)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()


def test_what_a_stream_started_outlives_it_and_ends_with_the_job(job: Job) -> None:
    """The agent is started over one stream and used over others; a step of its own would have ended it."""
    path = job.listens()
    job.echo.kill()
    job.echo.communicate()
    done = subprocess.run(job.command({"connect": path}), input=b"still there", capture_output=True, check=True, timeout=HANG_S)
    assert done.stdout == b"still there"
    job.close()
    until(lambda: not job.processes(), "no process of the job")
    until(lambda: not job.folders(), "no file of the job")


def test_a_socket_here_leads_to_one_in_the_job_for_several_connections_at_once(job: Job) -> None:
    folder = Path(tempfile.mkdtemp(prefix="gst-"))
    here = folder / "agent.sock"
    code = Path(stream_forwarder.__file__).read_text()
    there = job.listens()
    before = job.processes()
    command = job.command({"connect": there})
    forwarder = subprocess.Popen([sys.executable, "-I", "-S", "-c", code, str(here), *command])
    try:
        until(here.exists, "a forwarder that listens")
        assert here.stat().st_mode & 0o077 == 0
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for each, text in ((first, b"first"), (second, b"other")):
                each.settimeout(HANG_S)
                each.connect(str(here))
                each.sendall(text)
            assert (first.recv(5), second.recv(5)) == (b"first", b"other")
            first.shutdown(socket.SHUT_WR)
            assert first.recv(5) == b""
            second.sendall(b"again")
            assert second.recv(5) == b"again"
    finally:
        forwarder.kill()
        forwarder.wait(HANG_S)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    until(lambda: job.processes() == before, "the end of the forwarder's clients, here and in the job")


def test_the_end_of_the_job_ends_its_streams(job: Job) -> None:
    stream = subprocess.Popen(
        job.command({"run": ["cat"]}), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert stream.stdin is not None
    assert stream.stdout is not None
    stream.stdin.write(b"x")
    stream.stdin.flush()
    assert stream.stdout.read(1) == b"x"
    job.slurm.run("scancel", job.id)
    assert stream.communicate(timeout=HANG_S)[0] == b""


def test_the_job_ends_itself_at_its_deadline(slurm: Cluster) -> None:
    """The harness may be dead, and Slurm's own time limit is hours away."""
    job = Job(slurm, deadline=2)
    until(lambda: job.id not in slurm.living(), "the end of the job")
    assert job.folders() == []


def test_a_bridge_finds_no_job_of_that_name(job: Job) -> None:
    command = job.command({"run": ["cat"]})
    command[command.index(job.name)] = "glasshouse-another"
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=HANG_S)
    assert done.returncode == 1
    assert "ConnectionRefusedError" in done.stderr


@pytest.mark.parametrize("request_text", ['{"connect": "/nowhere"}', '{"run": 7}', "[]", "no json", '{"other": 1}'])
def test_a_request_that_cannot_be_served_ends_its_stream_alone(job: Job, request_text: str) -> None:
    command = job.command({})
    done = subprocess.run(
        [*command[:-1], request_text], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=HANG_S
    )
    assert done.returncode == 1
    done = subprocess.run(
        job.command({"run": ["echo", "on"]}), stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=HANG_S
    )
    assert done.stdout == b"on\n"


def test_folders_of_jobs_that_were_killed_are_removed_once_their_deadline_is_over(tmp_path: Path) -> None:
    now = time.time()
    for name in (
        f"glasshouse-a-1-{int(now) - 5}.xyz",
        f"glasshouse-a-2-{int(now) + 500}.xyz",
        f"other-{int(now) - 5}.x",
        "glasshouse-",
    ):
        (tmp_path / name).mkdir()
    remove_left_behind(str(tmp_path), "glasshouse-", now)
    assert sorted(path.name.partition(".")[0].rpartition("-")[0] for path in tmp_path.iterdir()) == [
        "glasshouse",
        "glasshouse-a-2",
        "other",
    ]
