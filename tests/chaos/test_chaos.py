"""Whatever is killed whenever: nothing bills in the end, no unfinished row passes, no dishonest guest gets a key.

Three seeds here, all of them with `make chaos`. The same code runs in both.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.run import Judged, play
from tests.chaos.scenario import Scenario, draw, draw_slurm
from tests.slurm.cluster import Cluster
from tests.slurm.needed import need_slurm

#: Written down before the first run. `CHAOS_SEEDS=100-199` takes a part of them, `CHAOS_SEEDS=7` one.
SEEDS = range(300) if os.environ.get("CHAOS") else (1001, 1002, 1007)
SLURM_SEEDS = range(100) if os.environ.get("CHAOS") else (1, 2)
AT_ONCE = int(os.environ.get("CHAOS_AT_ONCE", "4"))


def _chosen(usual: Iterable[int] = SEEDS) -> Iterable[int]:
    seeds = os.environ.get("CHAOS_SEEDS", "")
    first, _, last = seeds.partition("-")
    return range(int(first), int(last or first) + 1) if seeds else usual


def _all(scenarios: Iterable[Scenario], *, slurm: Cluster | None = None) -> list[Judged]:
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        judged = list(pool.map(lambda scenario: play(scenario, slurm=slurm), scenarios))
    by = Counter(each.ended_by for each in judged)
    sys.stdout.write(
        f"\nchaos: {len(judged)} runs in {time.monotonic() - began:.0f} s, {sum(each.instances for each in judged)} instances, "
        f"ended by {dict(by)}; victims {dict(Counter(each.scenario.victim for each in judged))}; "
        f"{sum(each.green for each in judged)} rows green, {sum(each.released for each in judged)} keys released, "
        f"{sum(each.refused for each in judged)} dishonest rows refused; {sum(bool(each.wrong) for each in judged)} runs wrong\n"
    )
    return judged


def _wrong(judged: Iterable[Judged]) -> list[str]:
    return [f"{each.scenario}: {'; '.join(each.wrong)}" for each in judged if each.wrong]


@pytest.mark.chaos
def test_interrupted_runs_leave_nothing_behind() -> None:
    judged = _all(map(draw, _chosen()))
    assert "\n".join(_wrong(judged)) == ""


@pytest.mark.chaos
def test_interrupted_runs_leave_nothing_in_slurms_queue() -> None:
    """Nor in the process table. Each run at once has its nodes: what waits for a GPU of another run is no subject here."""
    need_slurm()
    with Cluster(nodes=2 * AT_ONCE) as slurm:
        judged = _all(map(draw_slurm, _chosen(SLURM_SEEDS)), slurm=slurm)
    assert "\n".join(_wrong(judged)) == ""
