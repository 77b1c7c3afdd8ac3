"""Part of *work witnessed*: what came out of both legs is what such training gives, by the owner's own look at their adapters.

A leg that trains nothing can report any loss and any rate. Its adapter is in the owner's hands: how far it is from the initial
weights, and for an mlp row its loss on the package's data. Legs that took a like number of steps end at like losses, at like
distances, and use a like time of the processor for a unit.

Every margin is for the mean over the rounds judged so far, and far beyond what honest legs showed: `docs/cheating.md` has the
spreads they were taken from. They find a leg that did something else, not one that did a little less: that is for a replay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_glasshouse.invariants.finding import EvidenceReader, broken, unseen
from pytest_glasshouse.observation.training_trace import checkpoints_of, steps_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.rows.leg_order import Role

#: Losses are compared as logarithms, after this share of the first one is added: near zero, a small difference is a large ratio.
LOSS_FLOOR = 0.01
#: How far the logarithm of a loss may be from that of the other leg after as many steps. One step of lora sees one sequence.
LOSS_MARGIN: dict[str, float] = {"mlp": 0.3, "lora": 0.7}
#: How far an mlp adapter's loss, by its owner, may be below the reported one (a mean over an epoch in which it fell), and above.
OWNERS_LOSS_BELOW, OWNERS_LOSS_ABOVE = 0.6, 0.2
#: How far the logarithms of the adapters' distances may be from each other, beside that of the numbers of steps.
DISTANCE_MARGIN = 0.2
#: A leg uses at least this share of the processor time that the raw leg uses for a unit; on a CPU, where the work is done by it.
LEAST_CPU_SHARE = 0.6
#: Legs that used less processor time than this are not compared by it: a few steps show little.
LEAST_CPU_NS = 250_000_000
#: On a GPU a leg uses at least this share of the GPU time that the other uses for a unit. No GPU has shown yet how far apart
#: honest legs are.
LEAST_GPU_SHARE = 0.6
#: Divided by the number of steps, beside the margin of losses: first they fall fast, and between checkpoints as no line does.
FIRST_STEPS = 2.4

#: How much longer than the other one a leg may be without a step in its warm-up and wash-outs, as a share of its timed stretches;
#: beside it, what the kernel let it wait, and for each leg the first steps of all, which are slow.
UNTIMED_MARGIN, UNTIMED_START_NS = 0.05, 250_000_000

_DO = "do not use this row: what a leg reports of its training is not what its adapter shows"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What an agent saw of a leg's timed stretches: its processor time, and how long it waited for a processor."""

    cpu_ns: int
    waited_ns: int


class RoundsJudged:
    """Compares the legs of one round after the other, by the means over those so far: legs, or one rank of each."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, Role], list[float]] = {}

    def judge(self, reader: EvidenceReader, bodies: Mapping[Role, Trained], seen: Mapping[Role, Seen]) -> None:
        """`seen` is what the agent saw of each leg's timed stretches. An adapter is the leg's, and judged with its first rank."""
        workload = str(reader.of_row("material", "workload"))
        distances = {}
        for leg, body in bodies.items():
            checkpoints_rise(leg, body)
            if reader.rank:
                continue
            figures = reader.of(leg, "adapterFigures")
            distances[leg] = _number(leg, "distance", figures["distance"])
            if workload == "mlp":
                self._owners_loss(leg, body, _number(leg, "loss", figures["loss"]))
        if "raw" not in bodies:
            return
        for leg in bodies:
            if leg != "raw":
                self._losses(leg, bodies[leg], bodies["raw"], LOSS_MARGIN.get(workload, LOSS_MARGIN["lora"]))
                if distances:
                    self._distances(leg, bodies, distances)
                self._cpu_times(leg, bodies, seen)
                self._gpu_times(leg, bodies)
                self._untimed_work(leg, bodies, seen)

    def _mean(self, name: str, leg: Role, value: float) -> float:
        values = self._values.setdefault((name, leg), [])
        values.append(value)
        return math.fsum(values) / len(values)

    def _owners_loss(self, leg: Role, body: Trained, found: float) -> None:
        floor = _floor(leg, body)
        reported = float(body["final_loss"])
        mean = self._mean("owner's loss", leg, _log(found + floor) - _log(reported + floor))
        if not -OWNERS_LOSS_BELOW <= mean <= OWNERS_LOSS_ABOVE:
            raise broken(
                f"the {leg} leg's adapter has another loss than the leg reports",
                expected=f"about {reported:.6g}, as it reports",
                seen=f"{found:.6g}, by the owner of the data",
                todo=_DO,
            )

    def _losses(self, leg: Role, ours: Trained, raw: Trained, margin: float) -> None:
        """Where one leg took fewer steps, between what losses the other one's was after as many."""
        floor = _floor("raw", raw)
        shorter, longer = sorted((ours, raw), key=steps_of)
        others = _around(longer, steps_of(shorter), floor)
        if others is None:
            return
        margin += FIRST_STEPS / steps_of(shorter)
        own = _log(float(shorter["final_loss"]) + floor)
        beside = own - min(max(own, min(others)), max(others))
        mean = self._mean("loss", leg, beside if shorter is ours else -beside)
        if abs(mean) > margin:
            raise broken(
                f"the legs' losses after {steps_of(shorter)} steps are far from each other: the {leg} and the raw leg's",
                expected=f"within a factor of {math.exp(margin):.2f} of each other, over the rounds",
                seen=f"a factor of {math.exp(abs(mean)):.2f}",
                todo=_DO,
            )

    def _distances(self, leg: Role, bodies: Mapping[Role, Trained], distances: Mapping[Role, float]) -> None:
        steps = _log(steps_of(bodies[leg])) - _log(steps_of(bodies["raw"]))
        apart = _log(distances[leg]) - _log(distances["raw"])
        # More steps go further, but not by more than their number.
        beside = apart - min(max(apart, min(0.0, steps)), max(0.0, steps))
        if abs(self._mean("distance", leg, beside)) > DISTANCE_MARGIN:
            raise broken(
                f"the {leg} leg's adapter is another distance from the initial weights than the raw leg's",
                expected=f"about {distances['raw']:.4g} of their norm, for {steps_of(bodies['raw'])} steps",
                seen=f"{distances[leg]:.4g}, for {steps_of(bodies[leg])} steps",
                todo=_DO,
            )

    def _untimed_work(self, leg: Role, bodies: Mapping[Role, Trained], seen: Mapping[Role, Seen]) -> None:
        """A leg that counts the steps of its warm-up or wash-outs as timed ones took hardly any step in all that time."""
        idle = {each: _not_stepping_ns(bodies[each]) / max(1, bodies[each]["elapsed_ns"]) for each in (leg, "raw")}
        waited = sum(seen[each].waited_ns + UNTIMED_START_NS for each in idle)
        allowed = UNTIMED_MARGIN + waited / max(1, min(bodies[each]["elapsed_ns"] for each in idle))
        apart = self._mean("untimed steps", leg, idle[leg] - idle["raw"])
        if abs(apart) > self._mean("allowed for untimed steps", leg, allowed):
            name = leg if apart > 0 else "raw"
            raise broken(
                f"the {name} leg took too few steps in its warm-up and wash-outs for their time",
                expected=f"steps as in its timed stretches, within {allowed:.1%} of their time",
                seen=f"{abs(apart):.1%} more of it without a step than in the {'raw' if name == leg else leg} leg",
                todo="do not use this row: steps were counted as timed that were not",
            )

    def _cpu_times(self, leg: Role, bodies: Mapping[Role, Trained], seen: Mapping[Role, Seen]) -> None:
        if bodies["raw"]["facts"]["device"] != "cpu":
            return
        if min(seen[each].cpu_ns for each in (leg, "raw")) < LEAST_CPU_NS:
            return
        used = {each: seen[each].cpu_ns for each in (leg, "raw")}
        self._enough("processor", leg, bodies, used, LEAST_CPU_SHARE)

    def _gpu_times(self, leg: Role, bodies: Mapping[Role, Trained]) -> None:
        rows = {each: bodies[each].get("gpu_ns") for each in (leg, "raw")}
        used = {each: sum(steps for steps, _, _ in found) for each, found in rows.items() if found}
        if len(used) == len(rows):
            self._enough("GPU", leg, bodies, used, LEAST_GPU_SHARE)

    def _enough(self, of: str, leg: Role, bodies: Mapping[Role, Trained], used: Mapping[Role, int], least: float) -> None:
        """Neither leg used less than the `least` share of the other's time `of` the device for a unit."""
        ours, raws = (used[each] / max(1, bodies[each]["units"]) for each in (leg, "raw"))
        share = self._mean(f"{of} time", leg, _log(ours) - _log(raws))
        for name, less in ((leg, share), ("raw", -share)):
            # A protected leg may use more: protection has a cost. One that uses far less did not do the work.
            if less < math.log(least) and (name == leg or leg != "protected"):
                raise broken(
                    f"the {name} leg used too little {of} time for its units",
                    expected=f"at least {least:.0%} of the {'raw' if name == leg else leg} leg's time for a unit",
                    seen=f"{math.exp(less):.0%}",
                    todo="do not use this row: units were reported that were not worked",
                )


def checkpoints_rise(leg: Role, body: Trained) -> None:
    """A leg that trains has other weights at every checkpoint."""
    try:
        found = checkpoints_of(body)
    except ValueError as error:
        raise broken(
            f"the {leg} leg's checkpoints cannot be: {error}",
            expected="checkpoints in order, of the steps it reports",
            seen=f"{len(body.get('checkpoints', []))} checkpoints",
            todo="do not use this row",
        ) from None
    if not found:
        raise unseen(f"the {leg} leg has no checkpoints", expected="steps, loss and a digest of weights", seen="none")
    for before, after in pairwise(found):
        if before.digest == after.digest:
            raise broken(
                f"the {leg} leg's weights did not change from step {before.steps} to step {after.steps}",
                expected="other weights after every step",
                seen=after.digest,
                todo="do not use this row: that leg trained nothing there",
            )


def _not_stepping_ns(body: Trained) -> int:
    """How much of a leg's untimed time its steps of that time do not explain, at the rate of its timed ones."""
    wash = [(int(segment[4]), int(segment[5])) for segment in body.get("segments", [])]
    units = body["warmup_units"] + sum(each for each, _ in wash)
    elapsed_ns = body["warmup_ns"] + sum(each for _, each in wash)
    return elapsed_ns - units * body["elapsed_ns"] // max(1, body["units"])


def _floor(leg: Role, body: Trained) -> float:
    if not body["prologue"]:
        raise unseen(f"the {leg} leg has no prologue", expected="losses of its first steps", seen="none")
    return LOSS_FLOOR * abs(float(body["prologue"][0]))


def _around(body: Trained, steps: int, floor: float) -> tuple[float, float] | None:
    """Logarithms of a leg's losses at its last checkpoint up to so many steps and its first from there on; None before all.

    No law says how a loss falls from one to the other: a leg of a second has few checkpoints, and between them it falls faster
    than a power of the steps, or slower.
    """
    reported = [(each.steps, float(each.loss)) for each in checkpoints_of(body)] + [(steps_of(body), float(body["final_loss"]))]
    before = [loss for place, loss in reported if place <= steps]
    after = [loss for place, loss in reported if place >= steps]
    return (_log(before[-1] + floor), _log(after[0] + floor)) if before and after else None


def _number(leg: Role, name: str, text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise broken(
            f"the {leg} leg's adapter has no finite {name}",
            expected="finite weights",
            seen=text,
            todo="do not use this row: the adapter is worthless",
        )
    return value


def _log(value: float) -> float:
    return math.log(max(value, 1e-300))
