"""Checkpoints of a training: after how many steps, the loss, and a digest of a few of the weights.

Whoever trains the leg again finds the same, or knows between which two checkpoints it did something else. Few are kept, however
long the training is: where there are too many, every second one is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.base import Trainer

#: Checkpoints that a leg reports at most.
MOST_CHECKPOINTS = 32
#: Hexadecimal digits of a checkpoint's digest.
DIGEST_DIGITS = 32


def short_digest(trainer: Trainer) -> str:
    """Half of the digest of a few weights: enough, and not of the shape of a key, which no report may hold."""
    return trainer.sample_sha256()[:DIGEST_DIGITS]


class Checkpoints:
    """What one training passed. `steps` counts every step since the trainer was reset, whatever it was for."""

    def __init__(self) -> None:
        self.steps = 0
        self._kept: list[tuple[int, str, str]] = []
        self._every = self._due = 1

    def note(self, trainer: Trainer, loss: str) -> None:
        """Note where the training is now, if a checkpoint is due. The device must have finished."""
        self._due -= 1
        if self._due > 0 or (self._kept and self._kept[-1][0] == self.steps):
            return
        self._kept.append((self.steps, loss, short_digest(trainer)))
        if len(self._kept) == MOST_CHECKPOINTS:
            del self._kept[::2]
            self._every *= 2
        self._due = self._every

    def __len__(self) -> int:
        return len(self._kept)

    def to_json(self) -> list[Json]:
        """Each as `[steps, loss, digest]`, in order."""
        return [[*each] for each in self._kept]
