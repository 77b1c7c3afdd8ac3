"""Part of *work witnessed*: what a leg's steps were while it was timed, beside those of its prologue and of the other leg.

The agent asks for the prologue's first steps at moments that it draws, and signs the losses that it is told then. Batches are
counted where they are used. On a GPU each timed stretch has a second clock, the device's own. Counts and GPU times are the leg's
own word: they show a leg that does other work than it was given, not one that was written to lie about both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_glasshouse.invariants.finding import EvidenceReader, broken, unseen
from pytest_glasshouse.invariants.work import GPU_LOSS_TOLERANCE
from pytest_glasshouse.observation.training_trace import steps_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_glasshouse.observation.claims import StretchesClaims
    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.rows.leg_order import Role

_DO = "do not use this row: what was trained is not what the prologue showed"


def same_losses(leg: Role, body: Trained, again: Sequence[str], *, when: str) -> None:
    """Losses of the prologue's first steps, taken again: equal on a CPU, on a GPU within `GPU_LOSS_TOLERANCE`."""
    tolerance = 0.0 if body["facts"]["device"] == "cpu" else GPU_LOSS_TOLERANCE
    for step, (before, after) in enumerate(zip(body["prologue"], again, strict=False), 1):
        if not math.isclose(float(before), float(after), rel_tol=tolerance, abs_tol=0.0):
            raise broken(
                f"the {leg} leg's arithmetic {when} is not what it was before its training: losses differ at step {step}",
                expected=f"loss {before}, as in its prologue",
                seen=f"loss {after}",
                todo=_DO,
            )


def repeated_alike(leg: Role, body: Trained, claims: StretchesClaims) -> None:
    """Whenever its agent asked for them, the prologue's first steps gave the losses that they gave at first."""
    repeats = claims.get("repeats", [])
    if not repeats:
        raise unseen(f"the {leg} leg was not asked to repeat its prologue in between", expected="a repetition at a drawn moment")
    if not body["prologue"]:
        return  # `trained_alike` has nothing to compare then, and says so
    for repeat in repeats:
        if not 0 < len(repeat["losses"]) <= len(body["prologue"]):
            raise broken(
                f"the {leg} leg repeated other steps than its prologue's",
                expected=f"1 to {len(body['prologue'])} losses",
                seen=f"{len(repeat['losses'])}",
                todo=_DO,
            )
        same_losses(leg, body, repeat["losses"], when=f"after {repeat['after']} timed stretches")


def batches_as_given(reader: EvidenceReader, bodies: Mapping[Role, Trained]) -> None:
    """Every leg used the batches of its prologue in its training, as many for each step as there are; so did the other leg."""
    used = {leg: body.get("batches") for leg, body in bodies.items()}
    for leg, body in bodies.items():
        counts = used[leg]
        if counts is None or not counts["prologue"]:
            raise unseen(f"the {leg} leg did not count its batches", expected="batches by shape and dtypes", seen="none")
        _of_its_kinds(f"the {leg} leg's training", [*counts["training"]], [*counts["prologue"]], as_in="its prologue")
        expected = steps_of(body) * _batches_of_a_step(reader)
        if (total := sum(counts["training"].values())) != expected:
            raise broken(
                f"the {leg} leg used another number of batches than its steps have",
                expected=f"{expected}, for {steps_of(body)} steps",
                seen=str(total),
                todo="do not use this row: steps were reported that were not worked in full",
            )
    if "raw" in used:
        for leg, counts in used.items():
            assert counts is not None  # noqa: S101  (unseen above)
            raw = used["raw"]
            assert raw is not None  # noqa: S101  (unseen above)
            _of_its_kinds(f"the {leg} leg", [*counts["training"]], [*raw["training"]], as_in="the raw leg")


def _of_its_kinds(whose: str, seen: Sequence[str], expected: Sequence[str], *, as_in: str) -> None:
    if sorted(seen) != sorted(expected):
        raise broken(
            f"{whose} used batches of other shapes or types than {as_in}",
            expected=", ".join(sorted(expected)),
            seen=", ".join(sorted(seen)) or "none",
            todo=_DO,
        )


def _batches_of_a_step(reader: EvidenceReader) -> int:
    """As the owner of the data knows it."""
    material = reader.of_row("material")
    if material["workload"] != "mlp":
        return 1
    samples, batch = (material["facts"].get(name) for name in ("samples", "batch"))
    if not isinstance(samples, int) or not isinstance(batch, int) or batch < 1:
        raise unseen("the material does not tell how many batches an epoch has", expected="samples and batch")
    return -(-samples // batch)


def by_the_gpus_clock(
    leg: Role, body: Trained, *, stretches: int, wash_ns: int, stretches_may_ns: int, turns_may_ns: int
) -> None:
    """On a GPU, each timed stretch took as long by its clock as by the leg's, and a turn is wash-out and stretch.

    The last two are what may pass beside what is timed, over all stretches, and over all turns.
    """
    if body["facts"]["device"] == "cpu":
        return
    rows = body.get("gpu_ns")
    if rows is None:
        raise unseen(f"the {leg} leg's stretches were not timed on its GPU", expected="events around its steps", seen="none")
    if len(rows) != stretches or any(not 0 <= steps <= stretch <= turn for steps, stretch, turn in rows):
        raise broken(
            f"the {leg} leg's times of its GPU cannot be",
            expected=f"steps within a stretch within a turn, for {stretches} stretches",
            seen=f"{len(rows)} of them",
            todo="do not use this row",
        )
    timed_ns, turns_ns = (sum(row[place] for row in rows) for place in (1, 2))
    if abs(timed_ns - body["elapsed_ns"]) > stretches_may_ns:
        raise broken(
            f"the {leg} leg's clock and its GPU's differ over its timed stretches",
            expected=f"{timed_ns / 1e9:.6f} s by the GPU's clock, within {stretches_may_ns / 1e9:.3f} s",
            seen=f"{body['elapsed_ns'] / 1e9:.6f} s",
            todo="do not use this row: work went on when the leg's clock had stopped, or that clock is not the guest's",
        )
    if (untimed_ns := turns_ns - timed_ns - wash_ns) > turns_may_ns:
        raise broken(
            f"by its GPU's clock the {leg} leg left {untimed_ns / 1e9:.3f} s of its turns untimed",
            expected=f"at most {turns_may_ns / 1e9:.3f} s of {turns_ns / 1e9:.3f} s",
            seen=f"{untimed_ns / 1e9:.3f} s",
            todo="do not use this row: time passed in its turns while no clock of its ran",
        )
