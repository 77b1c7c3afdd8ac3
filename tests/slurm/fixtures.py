"""One Slurm for all tests of one process that need one: it starts in half a second, and most tests need an empty queue only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.limits import until
from tests.pytest_process import compiled_files
from tests.slurm.cluster import Cluster
from tests.slurm.needed import need_slurm
from tests.slurm.site import Site, left_on_disk, left_running

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def one_slurm() -> Iterator[Cluster]:
    """Two nodes with a GPU each."""
    need_slurm()
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def slurm(one_slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """That Slurm with an empty queue; this process's environment leads to it. What a test leaves in the queue is a failure."""
    for name, value in one_slurm.environment.items():
        monkeypatch.setenv(name, value)
    yield one_slurm
    left = one_slurm.staying()
    one_slurm.end_jobs()
    assert left == (), "jobs that the test left in the queue"


@pytest.fixture
def site(slurm: Cluster, pytester: pytest.Pytester) -> Iterator[Site]:
    """A project whose rows run there; in the end nothing of them is in the queue, on the disk or in the process table."""
    compiled = compiled_files()
    inherited = {
        n: v for n, v in os.environ.items() if not n.startswith(("GLASSHOUSE_", "PYTEST_", "RUNPOD_", "VAST_", "SLURM_J"))
    }
    environment = {**inherited, "HOME": "/nonexistent", "PYTHONPATH": str(REPOSITORY), **compiled.environment()}
    del environment["PYTHONDONTWRITEBYTECODE"]
    yield Site(slurm, pytester, environment)
    until(lambda: not slurm.living(), "an empty queue")
    names = slurm.names()
    assert (left_on_disk(names), left_running(names)) == ([], [])
    compiled.forget(pytester.path)
