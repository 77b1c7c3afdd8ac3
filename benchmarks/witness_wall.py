"""What every defence of a row costs it in wall time: the same row with all of them and without, one beside the other.

    python benchmarks/witness_wall.py [PAIRS]

Prints and judges nothing. Rows of a fixed number of steps, so that either does the same work, on two guests of this machine
that are up all the while: the product's own, and one whose archive reads no conditions and processor times, notes no
checkpoints, counts no batches, repeats no prologue and asks for no marks. Each pair is drawn in its order (the seed is
printed); a figure is of the logarithms of the pairs' ratios, with its 95 % interval by Student's t. Sizes, counts and seed
stand here, written before the first figure was seen: 12 pairs for each order of legs, 5 % as what a row may cost.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
import statistics
import sys
import time

from pytest_glasshouse.attacks.lying_legs import LyingGuest, LyingLeg
from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.overhead.interval import interval_pct
from pytest_glasshouse.rows.spec import Order

SEED = 20261129
PAIRS = 12
#: Steps of a leg: some seconds of them.
STEPS = 200
ORDERS: tuple[Order, ...] = ("raw-first", "interleaved")

WITHOUT = """
import sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.agent import main, turn_scheduler
from pytest_glasshouse.agent.border_marks import BorderMarks
from pytest_glasshouse.agent.leg_turns import LegTurns
from pytest_glasshouse.agent.stretches import StretchRecorder
from pytest_glasshouse.guest import training
from pytest_glasshouse.workloads.checkpoints import Checkpoints
from pytest_glasshouse.workloads.used_batches import UsedBatches


def no_processor(recorder):
    recorder._cpu.append(0)
    recorder._waits_at.append(0)


StretchRecorder._note_conditions = lambda recorder: None
StretchRecorder._watch = lambda recorder, over: None
StretchRecorder._waited_ns = lambda recorder: 0
StretchRecorder._note_processor = no_processor
Checkpoints.note = lambda checkpoints, trainer, loss: None
UsedBatches.note = lambda used, batch, weight, output: None
BorderMarks.cross = lambda marks: None
LegTurns.on_warm = lambda turns: ("go", {})
turn_scheduler.drawn_turns = lambda turns: set()
training.EPILOGUE_STEPS = 0
sys.exit(main.main())
"""
WITH = """
import sys

sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.agent import main

sys.exit(main.main())
"""


def main(arguments: list[str]) -> int:
    """Measure and print."""
    pairs = int(arguments[0]) if arguments else PAIRS
    drawn = random.Random(SEED)  # noqa: S311
    archives = {name: build_archive({"__main__.py": source.encode()}) for name, source in (("with", WITH), ("without", WITHOUT))}
    print(f"seed {SEED}, {pairs} pairs of rows of {STEPS} steps a leg; load {os.getloadavg()}", flush=True)
    with LyingGuest(archives["with"]) as defended, LyingGuest(archives["without"]) as bare:
        guests = {"with": defended, "without": bare}
        for order in ORDERS:
            row = dataclasses.replace(LyingLeg(lie="", order=order, steps=STEPS).row, rounds=1)
            for guest in guests.values():
                guest.carry_out(row)  # the first row of a guest compiles and reads
            ratios = []
            for _ in range(pairs):
                took = {}
                for name in drawn.sample(sorted(guests), len(guests)):
                    began = time.monotonic()
                    guests[name].carry_out(row)
                    took[name] = time.monotonic() - began
                ratios.append(math.log(took["with"] / took["without"]))
            print(f"  {order:12} {_shown(ratios)}; load {os.getloadavg()[0]:.1f}", flush=True)
    return 0


def _shown(ratios: list[float]) -> str:
    """How much more wall time, in percent, with its interval: the overhead of the rows without, the other way round."""
    wide = interval_pct(ratios, level=0.95)
    more = f"{100 * math.expm1(statistics.mean(ratios)):+.1f} % wall time with every defence"
    if wide is None:
        return f"{more} (single sample)"
    return f"{more} ({-wide.high:+.1f} to {-wide.low:+.1f}, of {len(ratios)} pairs)"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
