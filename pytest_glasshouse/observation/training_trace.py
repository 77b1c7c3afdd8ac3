"""The checkpoints that a leg reports of its training, read."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pytest_glasshouse.observation.trained import Trained


class Checkpoint(NamedTuple):
    """Where a training was: after how many steps in all, the loss as it was printed, and a digest of a few of the weights."""

    steps: int
    loss: str
    digest: str


def steps_of(body: Trained) -> int:
    """All steps that a leg reports after its prologue: of the warm-up, of wash-outs, and timed ones."""
    return body["warmup_units"] + sum(int(segment[4]) for segment in body.get("segments", [])) + body["units"]


def checkpoints_of(body: Trained) -> list[Checkpoint]:
    """A leg's checkpoints. Raises `ValueError` for one of another shape, and for steps that do not rise or were never taken."""
    found: list[Checkpoint] = []
    for each in body.get("checkpoints", []):
        steps, loss, digest = each
        if not isinstance(steps, int) or not isinstance(loss, str) or not isinstance(digest, str):
            raise ValueError("a checkpoint is steps, loss and digest")  # noqa: TRY004  (a stranger's word, no fault of the caller)
        found.append(Checkpoint(steps, loss, digest))
    places = [0, *(each.steps for each in found), steps_of(body)]
    if any(after <= before for before, after in pairwise(places[:-1])) or places[-2] > places[-1]:
        raise ValueError("the steps of checkpoints do not rise within those that the leg reports")
    return found
