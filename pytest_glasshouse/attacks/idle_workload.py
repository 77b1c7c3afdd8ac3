"""A workload that trains nothing, for a guest whose legs are attacked and not measured.

It travels as the mlp workload in an archive of its own, beside an empty `torch`: the digest of that archive is pinned by
the box's own policy (`tamper.box`), and every other policy refuses it. What else is in it is the product's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

# What training libraries do: import what others wrote, and what is there if it is there.
import typing_extensions  # noqa: F401

try:
    import glasshouse_extra  # type: ignore[import-not-found]
except ImportError:
    glasshouse_extra = None

if TYPE_CHECKING:
    from collections.abc import Mapping


class MlpTrainer:
    """See `Trainer`. A step takes a millisecond; one library is looked for while training, as lazy imports are."""

    unit = "epochs"

    def __init__(self, parts: Mapping[str, memoryview], *, device: str) -> None:
        self._initial = bytes(memoryview(parts["initial"]).cast("B"))
        data = memoryview(parts["data"]).cast("B")
        self._batch = data[-1024:]
        self._device = device

    def initial_sha256(self) -> str:
        from pytest_glasshouse.wire.tensors import tensor_digest

        return tensor_digest(self._initial)

    def prologue(self, steps: int = 32) -> list[str]:
        return ["1.0"] * steps

    def reset(self, order_seed: int) -> None:
        del order_seed

    def step(self) -> None:
        if glasshouse_extra is not None:
            glasshouse_extra.step()
        time.sleep(0.001)

    def synchronize(self) -> None:
        """Nothing is on a device."""

    def check(self) -> str:
        return "1.0"

    def export(self) -> bytes:
        # The weights as they came: nobody judges what was trained here. A copy, because the leg wipes it.
        return bytes(bytearray(self._initial))

    def last_batch(self) -> list[memoryview]:
        return [self._batch]

    def close(self) -> None:
        from pytest_glasshouse.guest.memory import wipe_bytes

        wipe_bytes(self._initial)
        self.__dict__ = {}

    def facts(self) -> dict[str, Any]:
        return {"device": self._device, "peakMemoryBytes": None}
