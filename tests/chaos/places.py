"""What a chaos run asks of the place where its guests are: an account of a loopback provider, or a Slurm of the tests."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from tests.chaos.connection import TOLD
from tests.chaos.scenario import Scenario
from tests.loopback.cloud import Cloud
from tests.loopback.pod_disk import Volume
from tests.loopback.providers import runpod, vastai
from tests.slurm.cluster import Cluster


class ChaosPlace(Protocol):
    """One run's place."""

    #: As the plugin's option names it, and what a process needs to reach it.
    provider: str
    environment: dict[str, str]

    def living(self) -> bool:
        """Whether something costs, waits to begin, or is left: on a disk or in the process table, too."""
        ...

    def made(self) -> int:
        """How many allocations it ever had."""
        ...

    def strike(self, victim: str) -> None:
        """Let something happen to a guest, where the victim is one: `pod`, `machine`, `restart`."""
        ...


class CloudPlace:
    """An account of a loopback provider."""

    def __init__(self, scenario: Scenario, url: str, cloud: Cloud) -> None:
        self.provider, _, api = scenario.provider.partition("-")
        name, key = ("VAST_URL", "VAST_API_KEY") if self.provider == "vastai" else ("RUNPOD_API_BASE_URL", "RUNPOD_API_KEY")
        self.environment = {name: url, key: cloud.account_key, "GLASSHOUSE_RUNPOD_API": api}
        self._cloud = cloud
        cloud.faults.add(*scenario.faults)

    def living(self) -> bool:
        return bool(self._cloud.billing() or self._cloud.waiting())

    def made(self) -> int:
        return len(self._cloud.rented)

    def strike(self, victim: str) -> None:
        acts = {"pod": self._cloud.kill, "machine": self._cloud.vanish, "restart": self._cloud.restart}
        for one in self._cloud.billing() if victim in acts else ():
            acts[victim](one.instance_id)


#: Faults of Slurm that its clients show; those of its jobs are victims.
SLURM_FAULTS = {
    "lost-answer": '"$real" "$@" >/dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1',
    "no-answer": "exit 1",
    "refused": 'echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2; exit 1',
    "not-sent": 'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2; exit 1',
}


class SlurmPlace:
    """A Slurm that several runs share; each sees its own jobs by its run id. A fault of a client happens once."""

    provider = "slurm"

    def __init__(self, scenario: Scenario, cluster: Cluster, folder: Path, *, run_id: str) -> None:
        self._cluster = cluster
        self._prefix = f"glasshouse-{run_id}-"
        self._names: set[str] = set()
        own = cluster.environment
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for client, fault in _client_faults(scenario):
            script = bin_folder / client
            once = shlex.quote(str(folder / f"{client}-failed"))
            script.write_text(
                f'#!/bin/sh\nreal=/usr/bin/{client}\ncase $* in *--test-only*) exec "$real" "$@";; esac\n'
                f'[ -e {once} ] && exec "$real" "$@"\n: > {once}\n{fault}\n'
            )
            script.chmod(0o755)
        self.environment = {
            **own, "PATH": f"{bin_folder}:{own['PATH']}", "GLASSHOUSE_REMOTE_PYTHON": sys.executable,
            "GLASSHOUSE_SLURM_GRES": "h100=gpu:h100:1\na4000=gpu:h100:1", "GLASSHOUSE_QUEUE_TIMEOUT": "6",
        }  # fmt: skip

    def living(self) -> bool:
        jobs = self._jobs()
        self._names |= set(jobs.values())
        return bool(jobs or self._left())

    def made(self) -> int:
        names = self._cluster.run("squeue", "-h", "-t", "all", "-o", "%j", check=False).split()
        return len({name for name in names if name.startswith(self._prefix)})

    def strike(self, victim: str) -> None:
        for job, name in self._jobs().items():
            if victim == "pod":
                for pid in _pids(name):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            elif victim == "machine":
                self._cluster.run("scancel", job, check=False)
            elif victim == "restart":
                self._cluster.run("scontrol", "update", f"JobId={job}", "Requeue=1", check=False)
                self._cluster.run("scontrol", "requeue", job, check=False)

    def _jobs(self) -> dict[str, str]:
        lines = self._cluster.run("squeue", "-h", "-o", "%i %j", check=False).splitlines()
        return {line.split()[0]: line.split()[1] for line in lines if f" {self._prefix}" in line}

    def _left(self) -> list[str]:
        """Folders of this run's jobs. One that was killed before it could remove its own leaves it to the next job."""
        return [str(path) for path in Path(tempfile.gettempdir()).glob(f"{self._prefix}*") if _pids(str(path))]


def _client_faults(scenario: Scenario) -> Iterator[tuple[str, str]]:
    for kind in scenario.slurm_faults:
        yield "sbatch", SLURM_FAULTS[kind]


def _pids(text: str) -> Iterable[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if text.encode() in command and b"tests.chaos" not in command and b"reaper_process" not in command:
                    yield int(entry.name)


@contextlib.contextmanager
def place_of(scenario: Scenario, folder: Path, told: Path, *, run_id: str, slurm: Cluster | None) -> Iterator[ChaosPlace]:
    """The place of a scenario, while its run lasts."""
    if scenario.provider == "slurm":
        assert slurm is not None
        yield SlurmPlace(scenario, slurm, folder, run_id=run_id)
        return
    volume = Volume(host=told, inside=TOLD, why="whether a leg ended is judged when its pod is long gone", writable=True)
    with (vastai if scenario.provider == "vastai" else runpod)(pods="start", volumes=[volume]) as server:
        yield CloudPlace(scenario, server.url, server.cloud)
