"""The Slurm of the tests itself: two nodes that take jobs, and an end that leaves neither process nor file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG_S, until
from tests.slurm.cluster import Cluster
from tests.slurm.needed import need_slurm

_STARTED = """
import sys, threading
from tests.slurm.cluster import Cluster
cluster = Cluster(nodes=1)
print(cluster.folder, *[daemon.pid for daemon in cluster._daemons.values()], flush=True)
threading.Event().wait()
"""


def test_each_node_gives_its_one_gpu_to_one_job(slurm: Cluster) -> None:
    submit = ("sbatch", "--parsable", "--gres=gpu:h100:1", "--output=/dev/null", "--chdir=/", "--wrap", "sleep 600")
    first, second, third = (slurm.run(*submit).strip() for _ in range(3))
    until(lambda: slurm.states().get(second) == "RUNNING", "two jobs that run")
    assert (slurm.states()[first], slurm.states()[third]) == ("RUNNING", "PENDING")
    slurm.end_jobs()


def test_its_daemons_and_files_are_gone_when_the_process_that_started_it_is_killed(slurm: Cluster) -> None:
    """A killed worker of xdist must not leave a Slurm on the developer's machine."""
    del slurm
    process = subprocess.Popen([sys.executable, "-c", _STARTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder, *daemons = process.stdout.readline().split()
    process.send_signal(signal.SIGKILL)
    process.wait(HANG_S)
    process.stdout.close()
    try:
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in daemons), "the end of the daemons")
    finally:
        subprocess.run(["rm", "-rf", folder], check=True)


def test_a_machine_without_slurm_skips_here_and_fails_in_ci() -> None:
    with pytest.raises(pytest.skip.Exception, match="saw no slurmctld, sbatch"):
        need_slurm(("slurmctld", "sbatch"), ci=False)
    with pytest.raises(pytest.fail.Exception, match="saw no slurmd"):
        need_slurm(("slurmd",), ci=True)
    assert os.environ.get("SLURM_CONF") is None
