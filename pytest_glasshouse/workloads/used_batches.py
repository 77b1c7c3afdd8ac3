"""Counts of the batches that a training used, by shape and dtypes, taken where they are used: in the forward pass.

Half of the samples, or another precision, gives other counts than the prologue's and the other leg's. A count costs a few
look-ups; nothing waits for a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.wire.guest_messages import MOST_KINDS

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json

#: What batches of more kinds than `MOST_KINDS` are counted as.
OTHERS = "others"


class UsedBatches:
    """Batches since a reset: `[samples, ...]` tensors or arrays, with what they were multiplied with and what came out."""

    def __init__(self) -> None:
        self._counts: dict[tuple[Any, ...], int] = {}

    def note(self, batch: Any, weight: Any, output: Any) -> None:
        """Count one batch that went forward."""
        kind = (batch.shape, batch.dtype, weight.dtype, output.dtype)
        self._counts[kind] = self._counts.get(kind, 0) + 1

    def to_json(self) -> dict[str, Json]:
        """Each kind with its count: shape and dtype of the batch, dtype of the weights, dtype of the output."""
        found: dict[str, Json] = {}
        for place, (kind, count) in enumerate(self._counts.items()):
            name = _name(*kind) if place < MOST_KINDS else OTHERS
            before = found.get(name, 0)
            found[name] = count + (before if isinstance(before, int) else 0)
        return found


def _name(shape: Any, *dtypes: Any) -> str:
    return " ".join(["x".join(map(str, shape)), *(str(dtype).removeprefix("torch.") for dtype in dtypes)])
