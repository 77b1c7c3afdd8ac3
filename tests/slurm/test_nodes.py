"""Rows over two nodes of a real Slurm: an agent, evidence, a key release and a signed exit on each; one training."""

from __future__ import annotations

import pytest

import tests.native_modules  # noqa: F401  (pytest runs in this process)
from tests.slurm.site import Site
from tests.slurm.test_rows import _whole


@pytest.mark.parametrize("order", ["protected-first", "raw-first"])
def test_a_row_over_two_nodes_is_one_job_on_both(site: Site, order: str) -> None:
    site.gpus, site.nodes, site.order = 2, 2, order
    ran = site.run()
    _whole(ran, site)
