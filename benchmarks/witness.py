"""What the second witness of a leg's work costs, in processor time: each part beside a step of the same run.

    python benchmarks/witness.py [ROUNDS]

Prints and judges nothing. A round takes every measurement once, in an order drawn anew (the seed is printed), so that a machine
that slows down meanwhile slows all of them; a figure is the median of the rounds' own, with the least and the greatest beside it.
How often each part comes is the product's own: the batches of each step, a checkpoint and at most three looks at the conditions a
second (drawn within one second, the first within a fifth of one), both ends of a stretch once in a stretch, here one of ten
seconds. Sizes, counts and seed stand here, written before the first figure was seen:
"""

from __future__ import annotations

import os
import random
import statistics
import sys
import time
from collections.abc import Callable

from pytest_glasshouse.agent.stretches import StretchRecorder, conditions_of
from pytest_glasshouse.workloads.registry import open_trainer, prepare
from pytest_glasshouse.workloads.used_batches import UsedBatches

SEED = 20261128
ROUNDS = 11
STRETCH_S = 10.0
LOOKS_PER_S = 3.0
#: How often each part is repeated in one measurement.
STEPS, TIMES = 20, 500


def cpu_s(work: Callable[[], object], times: int) -> float:
    """Processor seconds of this process for one repetition."""
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def stretch() -> None:
    """What an agent does at both ends of one, and what it starts in between."""
    recorder = StretchRecorder()
    recorder.pid = os.getpid()
    recorder.drained()
    recorder.clock_read()
    recorder.drained()
    recorder.clock_read()


class Like:
    """A tensor, as far as it is counted."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape, self.dtype = shape, dtype


def count(used: UsedBatches, kinds: tuple[Like, Like, Like]) -> None:
    """What a step of mlp counts."""
    for _ in range(4):
        used.note(*kinds)


def main(arguments: list[str]) -> int:
    """Measure and print."""
    rounds = int(arguments[0]) if arguments else ROUNDS
    parts = {name: memoryview(bytearray(part)) for name, part in prepare("mlp", seed=1).parts.items()}
    trainer = open_trainer("mlp", parts, device="cpu")
    trainer.reset(1)
    used, kinds = UsedBatches(), (Like((256, 32), "float32"), Like((256, 32), "float32"), Like((256, 16), "float32"))
    work: dict[str, tuple[Callable[[], object], int]] = {
        "step of mlp": (trainer.step, STEPS),
        "checkpoint": (trainer.sample_sha256, TIMES),
        "look at the conditions": (lambda: conditions_of(os.getpid()), TIMES),
        "both ends of a stretch": (stretch, TIMES),
        "count of a step's batches": (lambda: count(used, kinds), TIMES),
    }
    drawn = random.Random(SEED)  # noqa: S311
    found: dict[str, list[float]] = {name: [] for name in (*work, "of the processor time of the steps")}
    for _ in range(rounds):
        took = {name: cpu_s(*work[name]) for name in drawn.sample(sorted(work), len(work))}
        for name, seconds in took.items():
            found[name].append(1e6 * seconds)
        a_second = took["checkpoint"] + LOOKS_PER_S * took["look at the conditions"] + took["both ends of a stretch"] / STRETCH_S
        a_second += took["count of a step's batches"] / took["step of mlp"]
        found["of the processor time of the steps"].append(100 * a_second)
    trainer.close()
    print(f"seed {SEED}, {rounds} rounds; microseconds of processor time, median (least to greatest)")
    for name, values in found.items():
        unit = "%" if name.startswith("of the") else "us"
        print(f"  {name:36} {statistics.median(values):10.4f} {unit} ({min(values):.4f} to {max(values):.4f})")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
