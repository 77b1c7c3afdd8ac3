"""One Slurm for all tests of one process that need one: it starts in half a second, and most tests need an empty queue only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.slurm.cluster import Cluster
from tests.slurm.needed import need_slurm


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
