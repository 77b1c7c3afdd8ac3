"""A workload that trains nothing, for a guest whose legs are attacked and not measured.

It replaces the mlp workload in the target guest's archive, beside an empty `torch`. Only the target guest's policy
(`attacks.target_guest`) pins that archive; every other policy refuses it. The rest of the archive is the product's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

# As training libraries do: one third-party import, and one optional import.
import typing_extensions  # noqa: F401

try:
    import glasshouse_extra  # type: ignore[import-not-found]
except ImportError:
    glasshouse_extra = None

if TYPE_CHECKING:
    from collections.abc import Mapping


class MlpTrainer:
    """See `Trainer`. A step takes a millisecond."""

    unit = "epochs"

    def __init__(self, parts: Mapping[str, memoryview], *, device: str, ranks: None = None) -> None:
        del ranks  # a target guest has legs of one process
        self._initial = bytes(memoryview(parts["initial"]).cast("B"))
        data = memoryview(parts["data"]).cast("B")
        self._batch = data[-1024:]
        self._device = device
        self._steps = 0

    def initial_sha256(self) -> str:
        from pytest_glasshouse.wire.tensors import tensor_digest

        return tensor_digest(self._initial)

    def prologue(self, steps: int = 32) -> list[str]:
        return ["1.0"] * steps

    def repeat_prologue(self, steps: int) -> list[str]:
        return self.prologue(steps)

    def reset(self, order_seed: int) -> None:
        del order_seed

    def step(self) -> None:
        if glasshouse_extra is not None:
            glasshouse_extra.step()
        time.sleep(0.001)
        self._steps += 1

    def synchronize(self) -> None:
        """Nothing runs on a device."""

    def check(self) -> str:
        return "1.0"

    def sample_sha256(self) -> str:
        return f"{self._steps:032x}" * 2

    def batches(self) -> dict[str, Any]:
        return {}

    def export(self) -> bytes:
        # The initial weights: no training is judged here. A copy, because the leg wipes it.
        return bytes(bytearray(self._initial))

    def last_batch(self) -> list[memoryview]:
        return [self._batch]

    def close(self) -> None:
        from pytest_glasshouse.guest.memory import wipe_bytes

        wipe_bytes(self._initial)
        self.__dict__ = {}

    def facts(self) -> dict[str, Any]:
        return {"device": self._device, "peakMemoryBytes": None}
