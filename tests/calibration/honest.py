"""How often an honest leg is accused: simulated rows, and real rounds on this machine.

    python -m tests.calibration.honest --simulated 500 --rounds 40

The seeds, counts and margins were written into `docs/cheating.md` before the first run; every run is reported there.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import random
import sys
from typing import Any

from pytest_glasshouse.attacks.lying_legs import LyingGuest, LyingLeg, lying_archive
from pytest_glasshouse.attestation.http import ListeningServer
from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.invariants import work_witnessed
from pytest_glasshouse.overhead.interval import interval_pct, mean_overhead_pct
from pytest_glasshouse.overhead.verdict import implausible_negative, lowest_plausible_pct
from pytest_glasshouse.tamper.signed_round import SEGMENT_NS, RoundEdit, SignedRound
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.tamper.turns import TURNS
from pytest_glasshouse.wire import journal
from tests.numpy_guest.archive import numpy_archive_with

SEED = 20_261_128
#: Twice the spreads of the pilot (`docs/cheating.md`): of the logarithms of losses and distances, and below the reported loss.
_LOSS, _DISTANCE, _OWNERS = 0.06, 0.032, 0.3
#: Of the logarithm of the processor time of a unit, and of a round's rate.
_CPU, _RATE = 0.08, 0.05
#: Of the first steps of a leg, how much longer than planned they may take.
_START_NS = 150_000_000


class Testbed(TamperTestbed):
    """Its server has room for the challenge of every row."""

    def _serve(self) -> ListeningServer:
        self.caps = Caps(open_challenges=1000)
        return super()._serve()


def simulated(number: int, testbed: TamperTestbed) -> str:
    """Why an honest simulated row is accused; empty where it is not. Every second one is interleaved."""
    drawn = random.Random(SEED + number)
    observation = SignedRound(testbed, _honest(drawn), turns=TURNS if number % 2 else ()).observation
    found = work_witnessed(observation)
    return "" if found.finding == "held" else f"{found.finding}: {found.reason}"


def _honest(drawn: random.Random) -> RoundEdit:
    loss = 0.005 * math.exp(drawn.uniform(0, 5))

    def edit(about: str, content: Any) -> None:
        if about in ("entries", "callback"):
            body = content if about == "callback" else content[journal.STEPS.index("train_completed")][1]
            body["final_loss"] = repr(loss * math.exp(drawn.gauss(0, _LOSS)))
            body["warmup_ns"] += round(drawn.uniform(0, _START_NS))
            body["checkpoints"][-1][1] = repr(1.1 * loss * math.exp(drawn.gauss(0, _LOSS)))
        elif about.endswith("stretches"):
            used = math.exp(drawn.gauss(0, _CPU))
            content["cpuNs"] = [[round(least * min(used, 1.0)), round(most * max(used, 1.0))] for least, most in content["cpuNs"]]
            for row in content["stretches"]:
                row[0] -= drawn.randrange(2_000_000)
                row[1] += drawn.randrange(200_000)
                row[5] = drawn.randrange(SEGMENT_NS // 2)
        elif about == "observation":
            for leg in ("protected", "raw"):
                reported = content["rounds"][0][leg]["adapterFigures"]
                reported["loss"] = repr(loss * math.exp(-drawn.uniform(0, _OWNERS)))
                reported["distance"] = repr(0.2 * math.exp(drawn.gauss(0, _DISTANCE)))

    return edit


def too_low(number: int, *, null_rounds: int = 3) -> bool:
    """Whether a single honest round is called implausible beside a null row of so many rounds of the same spread."""
    drawn = random.Random(SEED - number)
    null = [drawn.gauss(0, _RATE) for _ in range(null_rounds)]
    wide = interval_pct(null, level=0.95)
    assert wide is not None
    lowest = lowest_plausible_pct([(mean_overhead_pct(null), wide.half_width, null_rounds)], margin_pct=1.0)
    return implausible_negative([drawn.gauss(0, _RATE)], margin_pct=1.0, lowest_pct=lowest) is not None


def real(rounds: int, order: Any) -> tuple[int, str]:
    """How many honest rounds of numpy legs of half a second were judged, and why they were accused."""
    row = dataclasses.replace(LyingLeg(lie="", order=order).row, rounds=rounds)
    with LyingGuest(lying_archive({}, build=numpy_archive_with)) as guest:
        observation = guest.carry_out(row)
    found = work_witnessed(observation)
    return len(observation["rounds"]), "" if found.finding == "held" else f"{found.finding}: {found.reason} ({found.seen})"


def main(arguments: list[str] | None = None) -> int:
    """Print every figure. The status is 1 where more are accused than stated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulated", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=40)
    given = parser.parse_args(arguments)
    with Testbed() as testbed:
        reasons = [reason for number in range(given.simulated) if (reason := simulated(number, testbed))]
    low = sum(map(too_low, range(given.simulated)))
    print(f"simulated rows: {len(reasons)} of {given.simulated} accused", *reasons[:5], sep="\n  ", flush=True)
    print(f"single rounds beside a null row: {low} of {given.simulated} called implausible", flush=True)
    accused = 0
    for order, count in (("raw-first", given.rounds // 2), ("interleaved", given.rounds - given.rounds // 2)):
        done = 0
        while done < count:
            judged, reason = real(min(5, count - done), order)
            done, accused = done + judged, accused + bool(reason)
            print(f"real rounds, {order}: {judged} judged; {reason or 'believed'}", flush=True)
    return int(len(reasons) > given.simulated * 0.002 or low > given.simulated * 0.01 or accused > 0)


if __name__ == "__main__":
    sys.exit(main())
