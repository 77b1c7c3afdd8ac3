"""Legs of a report trained again, from the report alone: the adapter that comes out must be the one that the leg exported.

A report says what a leg trained on (workload, seeds, model) and how many steps it took in all: warm-up, wash-outs and timed ones.
On a CPU with one thread the arithmetic is the same bit for bit, so another adapter means other steps, other data or other
arithmetic, and the first checkpoint that differs says between which steps. On a GPU of the same model, whose kernels may sum in
another order, the losses of the checkpoints are compared, within `GPU_TOLERANCE`. Which legs are trained again is drawn by a hash
of what was signed when they had ended, the server's receipt among it. A digest holds no weights to begin from: a segment is
reached by training all that is before it.

A report is a stranger's: a model is looked for by its hub id only, never as a path of this machine, a row's fields are held to
the bounds of `RowSpec`, and a leg is given up after many times what it says it took.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.errors import ConfigurationError, ProtocolError
from pytest_glasshouse.invariants.work import GPU_LOSS_TOLERANCE
from pytest_glasshouse.observation.reading import planned_gpus
from pytest_glasshouse.observation.results import ends_of, results
from pytest_glasshouse.observation.training_trace import checkpoints_of, steps_of
from pytest_glasshouse.observation.turns import segments_of
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import LegResult
    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.observation.training_trace import Checkpoint
    from pytest_glasshouse.report.fields import Report
    from pytest_glasshouse.rows.leg_order import Role


#: How often what a leg took may pass, and how much beside it for imports, before it is given up.
_TIMES, _START_S = 20, 300.0
#: How much a loss may differ, as a share, where both trainings ran on a GPU. No GPU has shown yet that this is right.
GPU_TOLERANCE = 0.05
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


class Task(TypedDict):
    """A leg to train again. `steps` are all it took after its prologue; `checkpoints` after how many of them to look.

    `device` is `cpu`, or the model of the GPU that has to be here.
    """

    workload: str
    seed: int
    model: str | None
    rank: int | None
    targets: list[str] | None
    alpha: int | None
    data: str | None
    standIn: str | None
    orderSeed: int
    steps: int
    checkpoints: list[int]
    device: str


class TrainedAgain(TypedDict):
    """What the process that trains a leg again prints: digests of what it began with and ended with, or why it could not."""

    refused: str
    initialSha256: str
    baseSha256: str | None
    torch: str
    prologue: list[str]
    checkpoints: list[list[int | str]]
    adapterSha256: str


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """One leg trained again. Only `equal` is good; `reason` says how it is, or what differs, or why the leg was not trained."""

    row: str
    round: int
    leg: Role
    steps: int
    equal: bool
    reason: str

    def __str__(self) -> str:
        """One line."""
        return f"replay of the {self.leg} leg of round {self.round} of {self.row}, {self.steps} steps: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class _Leg:
    observation: Observation
    row: str
    result: LegResult
    round: int
    steps: int
    took_s: float
    end: Trained
    drawn: str


def replay(report: Report, count: int) -> Iterator[Replayed]:
    """Train `count` legs of the report again, one at a time; every leg where there are fewer.

    `report` has the schema. Yields one result for each leg, as it comes; nothing where the report has no leg that ended.
    """
    for leg in sorted(_legs(report), key=lambda each: each.drawn)[:count]:
        equal, reason = _again(leg)
        yield Replayed(row=leg.row, round=leg.round, leg=leg.result.leg, steps=leg.steps, equal=equal, reason=reason)


def _legs(report: Report) -> Iterator[_Leg]:
    for record in [*report["rows"], *report["nullRows"], *report.get("sealedRows", [])]:
        observation = record["observation"]
        for notes, found in zip(observation.get("rounds", []), results(observation), strict=True):
            for role, end in ends_of(notes).items():
                result = found.leg(role)
                if result is None:
                    continue
                segments = segments_of(end).values()
                washed_ns = sum(segment["wash_ns"] for segment in segments)
                signed = [(notes["protected"] or {}).get("receipt", ""), (notes.get(role) or {}).get("exit", "")]
                yield _Leg(
                    observation=observation,
                    row=record["rowId"],
                    result=result,
                    round=found.number,
                    steps=steps_of(end),
                    took_s=(end["warmup_ns"] + washed_ns + end["elapsed_ns"]) / 1e9,
                    end=end,
                    drawn=sha256_hex("\n".join(["glasshouse-replay/1", *signed]).encode()),
                )


def _again(leg: _Leg) -> tuple[bool, str]:
    """Whether the leg trained what it says, and how that was seen; if not, what differs."""
    if planned_gpus(leg.observation) > 1:
        return False, "not trained again: only legs of one rank are"
    try:
        checkpoints = checkpoints_of(leg.end)
        found = _trained(_task(leg, checkpoints), within_s=_START_S + _TIMES * leg.took_s)
    except (ConfigurationError, ProtocolError, ValueError) as error:
        return False, f"not trained again: {error}"
    if found["refused"]:
        return False, f"not trained again: {found['refused']}"
    material = leg.observation["material"]
    compared: Sequence[tuple[str, object, object]] = (
        ("initial weights", material["initialSha256"], found["initialSha256"]),
        ("base model", material["baseSha256"], found["baseSha256"]),
        ("torch", leg.result.facts.get("torchVersion"), found["torch"]),
    )
    for name, expected, seen in compared:
        if expected != seen:
            return False, f"not comparable: another {name} here: expected {printable(expected)}, saw {printable(seen)}"
    on_cpu = leg.result.facts["device"] == "cpu"
    if not _close(leg.end["prologue"], found["prologue"], 0.0 if on_cpu else GPU_LOSS_TOLERANCE):
        return False, "not comparable: other losses of the prologue here"
    return _bit_for_bit(leg, checkpoints, found) if on_cpu else _within_tolerance(checkpoints, found)


def _bit_for_bit(leg: _Leg, checkpoints: Sequence[Checkpoint], found: TrainedAgain) -> tuple[bool, str]:
    reached = 0
    for reported, again in zip(checkpoints, found["checkpoints"], strict=True):
        if [*reported] != again:
            return False, f"OTHER WEIGHTS after step {reported.steps}, the same after step {reached}; {_NOT_TRAINED}"
        reached = reported.steps
    if leg.result.adapter_sha256 != found["adapterSha256"]:
        expected, seen = leg.result.adapter_sha256, found["adapterSha256"]
        return False, f"ANOTHER ADAPTER: expected {expected}, saw {seen}; {len(checkpoints)} checkpoints agree; {_NOT_TRAINED}"
    return True, f"the same adapter and {len(checkpoints)} checkpoints, bit for bit"


def _within_tolerance(checkpoints: Sequence[Checkpoint], found: TrainedAgain) -> tuple[bool, str]:
    if not checkpoints:
        return False, "not comparable: it has no checkpoints, and a GPU's adapter is not the same bit for bit"
    for reported, again in zip(checkpoints, found["checkpoints"], strict=True):
        if not _close([reported.loss], [str(again[1])], GPU_TOLERANCE):
            return False, (
                f"ANOTHER LOSS after step {reported.steps}: expected {reported.loss}, saw {printable(again[1])}; {_NOT_TRAINED}"
            )
    return True, f"the losses of {len(checkpoints)} checkpoints within {GPU_TOLERANCE:.0%}, on a GPU of the same model"


_NOT_TRAINED = "the leg did not train what it reports"


def _close(ours: Sequence[str], theirs: Sequence[str], tolerance: float) -> bool:
    try:
        return len(ours) == len(theirs) and all(
            math.isclose(float(one), float(other), rel_tol=tolerance) for one, other in zip(ours, theirs, strict=True)
        )
    except ValueError:  # a report's losses may be any text
        return False


def _task(leg: _Leg, checkpoints: Sequence[Checkpoint]) -> Task:
    """What the process that trains it is told. Raises `ConfigurationError` for what no row can be."""
    material, plan = leg.observation["material"], leg.observation["plan"]
    model, facts, adapter = material["modelId"], material["facts"], plan.get("adapter")
    if model is not None:
        if not _HUB_ID.fullmatch(model) or Path(model).exists():
            raise ConfigurationError("its model is a directory of its user's own, which a report does not hold")
        revision = facts.get("revision")
        model = f"{model}@{revision}" if isinstance(revision, str) else model
    row = RowSpec(name="replay", workload=material["workload"], gpu="anygpu", order="raw-first", steps=leg.steps, model=model)
    if adapter is not None:
        row = replace(row, rank=adapter["rank"], targets=tuple(adapter["targets"]), alpha=adapter.get("alpha"))
    data, shape = facts.get("data"), facts.get("standInShape")
    return {
        "workload": row.workload,
        "seed": plan["seed"],
        "model": row.model,
        "rank": row.rank,
        "targets": [*row.targets],
        "alpha": row.alpha,
        "data": data if isinstance(data, str) else None,
        "standIn": shape if isinstance(shape, str) else None,
        "orderSeed": leg.result.order_seed,
        "steps": leg.steps,
        "checkpoints": [each.steps for each in checkpoints],
        "device": leg.result.facts["device"],
    }


def _trained(task: Task, *, within_s: float) -> TrainedAgain:
    """A process of its own trains the leg: with the environment of a leg, and without this process's threads."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest_glasshouse.cli.replay_leg"],
            input=json.dumps(task).encode(),
            env={**os.environ, **GUEST_ENVIRONMENT},
            capture_output=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProtocolError(f"{task['steps']} steps take more than {within_s:.0f} s here, many times what the leg took") from None
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ProtocolError(f"the process that trains it ended with status {done.returncode}: {printable(''.join(last))}")
    return check_typed(json.loads(lines[-1]), TrainedAgain, "replay")
