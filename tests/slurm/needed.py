"""Whether this machine can run a Slurm of its own. `CI` fails what a developer's machine without that skips."""

from __future__ import annotations

import os

import pytest

from tests.slurm.cluster import missing


def need_slurm(lacking: tuple[str, ...] | None = None, *, ci: bool | None = None) -> None:
    """Skip the test where there is no Slurm, and fail it where CI is set."""
    lacking = missing() if lacking is None else lacking
    if not lacking:
        return
    told = f"these tests start a Slurm of their own (Debian: slurmctld slurmd slurm-client munge); saw no {', '.join(lacking)}"
    if bool(os.environ.get("CI")) if ci is None else ci:
        pytest.fail(told)
    pytest.skip(told)
