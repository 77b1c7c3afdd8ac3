"""Legs forked from one launcher beside legs of launchers of their own: how long a start takes, and how far rates scatter.

    python -m benchmarks.starts [--legs N] [mlp] [lora]

Raw legs of the product: the real agent's leg, launcher and measurements, in this process as the agent. In random order, half of
them are forked from a launcher that stays (*forked*), the other half from one that is executed for that leg alone and imports
everything (*executed*). Printed are the time from the order to the first training, and for the rates, in units per second of
processor time and per second, the standard deviations of their logarithms, and the ratio of these with its 95 % interval (F
distribution).

Set down before the first run: 40 legs of each kind, one second of warm-up and two of training, seed 73 000 000. Forks are kept
where starts are shorter, unless the interval of the ratio by processor time lies wholly above 1 (they scatter more).
"""

from __future__ import annotations

import argparse
import math
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.bytecode_cache import BytecodeCache
from pytest_glasshouse.agent.gpu_memory import GpuMemory
from pytest_glasshouse.agent.installed_code import Baseline
from pytest_glasshouse.agent.launchers import Launchers
from pytest_glasshouse.agent.leg_process import LegProcess
from pytest_glasshouse.agent.memory_files import MemoryFiles, sealed_copy
from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.providers.guest_python import guest_folders
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT
from pytest_glasshouse.workloads.registry import prepare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.wire.host_messages import RawOrder

SEED, LEGS, WARMUP_S, TRAINED_S = 73_000_000, 40, 1.0, 2.0
#: A model that is nowhere: the stand-in takes its place, from memory.
_NO_MODEL = "glasshouse/nowhere"
_LEG_S = 600.0


@dataclass(kw_only=True)
class Kind:
    """The legs of one kind: seconds from the order to the first training, units a second of processor time and of the clock."""

    starts_s: list[float] = field(default_factory=list)
    by_cpu: list[float] = field(default_factory=list)
    by_clock: list[float] = field(default_factory=list)


class Bench:
    """An agent's parts in one directory, and the material of one workload."""

    def __init__(self, folder: Path, workload: WorkloadName) -> None:
        self._folder, self._workload = folder, workload
        self._site_packages = site_packages = [*guest_folders()]
        self._archive_fd = archive_fd = sealed_copy("guest", guest_archive())
        environment = {**GUEST_ENVIRONMENT, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TMPDIR": str(folder)}
        self._baseline = Baseline(site_packages)
        self._bytecode = BytecodeCache(
            folder / "bytecode", archive_fd=archive_fd, site_packages=site_packages, environment=environment
        )
        self._count = 0
        self._stays = self._launchers()
        self._spool = Spool(folder / "spool.jsonl")
        self._memory_files = MemoryFiles()
        material = prepare(workload, seed=SEED, model=_NO_MODEL, sealed=workload == "lora")
        self._parts = {}
        for name, part in {**material.parts, **material.sealed}.items():
            assert isinstance(part, bytes)
            self._memory_files.write(name, offset=0, total=len(part), piece=part)
            self._parts[name] = name

    def _launchers(self) -> Launchers:
        return Launchers(
            self._folder / f"legs-{self._count}",
            archive_fd=self._archive_fd,
            site_packages=self._site_packages,
            baseline=self._baseline,
            bytecode=self._bytecode,
        )

    def leg(self, into: Kind, *, executed: bool) -> None:
        """Run one raw leg, and note its figures. One that is `executed` has a launcher of its own."""
        self._count += 1
        launchers = self._launchers() if executed else self._stays
        plan: Any = {
            "workload": self._workload, "device": "cpu", "warmup_ns": round(WARMUP_S * 1e9), "target_ns": round(TRAINED_S * 1e9),
            "steps": None, "order_seed": SEED + self._count, "segments": None, "base": None,
        }  # fmt: skip
        order = cast("RawOrder", {"kind": "raw", "nonce": "0" * 64, "plan": plan, "material": self._parts, "base_sha256": None})
        name = f"raw-{self._count}"
        leg = LegProcess(
            leg_id=name, order=order, workspace=self._folder / "legs" / name, components={}, baseline=self._baseline,
            bytecode=self._bytecode, container="bench", launchers=launchers, gpu=GpuMemory(None),
            key=Ed25519PrivateKey.generate(), memory_files=self._memory_files, spool=self._spool,
        )  # fmt: skip
        began, cursor = time.monotonic_ns(), self._spool.cursor
        leg.start()
        assert leg.wait(_LEG_S), "the leg did not end"
        events = {str(event["type"]): event for event in self._spool.since(cursor, wait_s=0)}
        assert "callback" in events, events
        body: Any = events["callback"]["body"]
        into.starts_s.append((cast("int", events["started"]["t_ns"]) - began) / 1e9)
        into.by_cpu.append(body["units"] / body["cpu_ns"])
        into.by_clock.append(body["units"] / body["elapsed_ns"])
        if executed:
            launchers.end()

    def end(self) -> None:
        """End what runs."""
        self._bytecode.end()
        self._stays.end()


def spread(rates: Sequence[float]) -> float:
    """The standard deviation of the rates' logarithms: about that of the rates, as a share of their mean."""
    return statistics.stdev(map(math.log, rates))


def ratio_of_spreads(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """The first spread over the second, and its 95 % interval: by the F distribution of the ratio of variances."""
    from scipy.stats import f

    ratio = spread(first) / spread(second)
    low, high = (math.sqrt(f.ppf(share, len(first) - 1, len(second) - 1)) for share in (0.975, 0.025))
    return ratio, ratio / low, ratio / high


def compare(workload: WorkloadName, legs: int) -> None:
    """Run the legs of one workload and print what was seen."""
    forked, executed = Kind(), Kind()
    drawn = random.Random(SEED)  # noqa: S311
    with tempfile.TemporaryDirectory(prefix="glasshouse-starts-") as folder:
        bench = Bench(Path(folder), workload)
        try:
            bench.leg(Kind(), executed=True)  # compiles
            bench.leg(Kind(), executed=False)  # starts the launcher that stays
            for _ in range(legs):
                for own in drawn.sample((False, True), 2):
                    bench.leg(executed if own else forked, executed=own)
        finally:
            bench.end()
    print(f"{workload}: {legs} legs of each kind, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for name, kind in (("forked", forked), ("executed", executed)):
        print(
            f"  {name:9} start {statistics.median(kind.starts_s):.2f} s (median), spread of rates"
            f" {100 * spread(kind.by_cpu):.2f} % by processor time, {100 * spread(kind.by_clock):.2f} % by the clock"
        )
    for name, first, second in (
        ("processor time", forked.by_cpu, executed.by_cpu),
        ("the clock", forked.by_clock, executed.by_clock),
    ):
        ratio, low, high = ratio_of_spreads(first, second)
        print(f"  spread of forks over that of executions by {name}: {ratio:.2f} (95 % interval {low:.2f} to {high:.2f})")
    means = [statistics.fmean(map(math.log, kind.by_cpu)) for kind in (forked, executed)]
    print(f"  rate of forks over that of executions by processor time: {math.exp(means[0] - means[1]):.4f}")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="Forked legs beside executed ones.")
    parser.add_argument("workloads", nargs="*", default=["mlp", "lora"], choices=["mlp", "lora"])
    parser.add_argument("--legs", type=int, default=LEGS)
    options = parser.parse_args()
    for workload in options.workloads:
        compare(workload, options.legs)


if __name__ == "__main__":
    main()
