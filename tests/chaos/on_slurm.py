"""A Slurm of the tests in a chaos run, asked and struck as an account is; runs share it, and each sees its own jobs by its run id."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.scenario import Scenario
from tests.slurm.cluster import Cluster

#: What `sbatch` does once, in place of what it should.
FAULTS = {
    "lost-answer": '"$real" "$@" >/dev/null; echo "sbatch: error: Batch job submission failed: Socket timed out" >&2; exit 1',
    "no-answer": "exit 1",
    "refused": 'echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" >&2; exit 1',
    "not-sent": 'echo "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)" >&2; exit 1',
}
_CLIENT = """#!/bin/sh
real={real}
case $* in *--test-only*) exec "$real" "$@";; esac
[ -e {once} ] && exec "$real" "$@"
: > {once}
{fault}
"""


@dataclass(frozen=True)
class Job:
    """A job that waits or runs, or a process that is left of one."""

    instance_id: str


class OnSlurm:
    """The part of `loopback.cloud.Cloud` that a chaos run uses, over a real Slurm."""

    def __init__(self, scenario: Scenario, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._prefix = f"glasshouse-chaos-{scenario.seed}-"
        self._path = cluster.environment["PATH"]
        for kind in scenario.slurm_faults:
            script = folder / "bin" / "sbatch"
            script.parent.mkdir()
            once = shlex.quote(str(folder / "sbatch-failed"))
            script.write_text(_CLIENT.format(real="/usr/bin/sbatch", once=once, fault=FAULTS[kind]))
            script.chmod(0o755)
            self._path = f"{script.parent}:{self._path}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to find it."""
        return {
            **self._cluster.environment, "PATH": self._path, "GLASSHOUSE_REMOTE_PYTHON": sys.executable,
            "GLASSHOUSE_SLURM_GRES": "h100=gpu:h100:1\na4000=gpu:h100:1", "GLASSHOUSE_QUEUE_TIMEOUT": "6",
        }  # fmt: skip

    @property
    def rented(self) -> set[str]:
        """The names of all jobs of this run there ever were."""
        names = self._cluster.run("squeue", "-h", "-t", "all", "-o", "%j", check=False).split()
        return {name for name in names if name.startswith(self._prefix)}

    def billing(self) -> tuple[Job, ...]:
        """Jobs that wait, run or are being ended, and processes in the directories of those that are no more."""
        jobs = self._jobs()
        folders = [str(path) for path in Path(tempfile.gettempdir()).glob(f"{self._prefix}*")]
        left = [] if jobs else [folder for folder in folders if any(_pids(folder))]
        return tuple(map(Job, [*jobs, *left]))

    def waiting(self) -> tuple[Any, ...]:
        """Nothing is made later than it is asked for."""
        return ()

    def kill(self, instance_id: str) -> None:
        """SIGKILL for everything of the job: nothing of it cleans up."""
        if name := self._jobs().get(instance_id):
            for pid in _pids(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def vanish(self, instance_id: str) -> None:
        """Somebody cancels it."""
        self._cluster.run("scancel", instance_id, check=False)

    def restart(self, instance_id: str) -> None:
        """An administrator requeues it."""
        self._cluster.run("scontrol", "update", f"JobId={instance_id}", "Requeue=1", check=False)
        self._cluster.run("scontrol", "requeue", instance_id, check=False)

    def close(self) -> None:
        """Cancel what is left."""
        if jobs := self._jobs():
            self._cluster.run("scancel", *jobs, check=False)

    def _jobs(self) -> dict[str, str]:
        lines = self._cluster.run("squeue", "-h", "-o", "%i %j", check=False).splitlines()
        return {line.split()[0]: line.split()[1] for line in lines if f" {self._prefix}" in line}


def _pids(text: str) -> Iterator[int]:
    """What runs of a job on its node."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if text.encode() in command and b"tests.chaos" not in command and b"reaper_process" not in command:
                    yield int(entry.name)
