"""A trainer that trains nothing, on a clock of its own."""

from __future__ import annotations

from typing import Any

from pytest_glasshouse.workloads.base import NonFiniteLossError
from pytest_glasshouse.workloads.loop import NS

MS = NS // 1000


class FakeTrainer:
    """Steps that take a set time, which passes only when the device is waited for."""

    unit = "steps"

    def __init__(self, step_ns: int, *, bad_at: int | None = None) -> None:
        self.now = 0
        self.steps = 0
        self._step_ns = step_ns
        self._pending = 0
        self._bad_at = bad_at
        self.longest_queue = 0
        #: How often the device was waited for while it had something to do.
        self.waits = 0

    def clock(self) -> int:
        return self.now

    def last_batch(self) -> list[memoryview]:
        return []

    def step(self) -> None:
        self.steps += 1
        self._pending += 1

    def synchronize(self) -> None:
        self.longest_queue = max(self.longest_queue, self._pending)
        self.waits += self._pending > 0
        self.now += self._pending * self._step_ns
        self._pending = 0

    def check(self) -> str:
        self.synchronize()
        if self._bad_at is not None and self.steps >= self._bad_at:
            raise NonFiniteLossError("nan")
        return f"loss after {self.steps}"

    def sample_sha256(self) -> str:
        return f"weights after {self.steps}"

    def initial_sha256(self) -> str:
        raise NotImplementedError

    def prologue(self, steps: int = 32) -> list[str]:
        raise NotImplementedError

    def repeat_prologue(self, steps: int) -> list[str]:
        raise NotImplementedError

    def batches(self) -> dict[str, Any]:
        raise NotImplementedError

    def reset(self, order_seed: int) -> None:
        raise NotImplementedError

    def export(self) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        raise NotImplementedError
