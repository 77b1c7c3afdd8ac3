"""A leg's GPU memory as NVML reports it: the process's own where the driver lists processes, else the device's.

In a container the driver often lists no process. Then the memory in use on the leg's GPU is compared with that before the leg
started. A driver frees the memory of a killed process with a delay, so it is looked at until it is free. The host judges the
figures.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.guest.nvml import Gpu
    from pytest_glasshouse.wire.canonical import Json

#: How long memory may take to be free once its process is gone, and the pause between two looks.
RELEASED_WITHIN_S = 10.0
_PAUSE_S = 0.1


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One look: bytes of the leg's process, None where it is not listed, and of the whole GPU; None where not to be had."""

    own: int | None
    device: int | None


class GpuMemory:
    """One leg's GPU memory. Must be made before the leg starts. Without a `gpu` nothing is claimed, for the `reason` given."""

    def __init__(
        self,
        gpu: Gpu | None,
        *,
        reason: str = "",
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._gpu, self._reason = gpu, reason
        self._clock, self._pause = clock, pause
        self._before: _Look | None = None
        self._after: _Look | None = None
        self._idle = self._look(-1).device

    def record_in_use(self, pid: int) -> None:
        """Record the memory of process `pid` while it trains."""
        if self._gpu is not None:
            self._before = self._look(pid)

    def await_release(self, pid: int, *, killed: bool = False) -> None:
        """Record the memory once it is free, or as it is after `RELEASED_WITHIN_S`. Process `pid` is gone.

        Of a leg that was `killed` at once: who killed it waits for its exit.
        """
        if self._gpu is None:
            return
        until = self._clock() + (0.0 if killed else RELEASED_WITHIN_S)
        self._after = self._look(pid)
        while self._in_use() and self._clock() < until:
            self._pause(_PAUSE_S)
            self._after = self._look(pid)

    def claims(self) -> dict[str, Json]:
        """`before` and `after` in bytes, counted the same way, and which way; null with a reason where unavailable."""
        of, before, after = self._figures()
        if after is None:
            return {"before": None, "after": None, "of": "nothing", "reason": self._reason or "the leg was never started"}
        return {"before": before, "after": after, "of": of, "reason": "" if self._before is not None else "the leg never trained"}

    def _figures(self) -> tuple[str, int | None, int | None]:
        before, after = self._before, self._after
        if before is not None and before.own and after is not None and after.own is not None:
            return "process", before.own, after.own
        return "device", self._above_idle(before), self._above_idle(after)

    def _above_idle(self, look: _Look | None) -> int | None:
        if look is None or look.device is None or self._idle is None:
            return None
        return max(0, look.device - self._idle)

    def _in_use(self) -> bool:
        return bool(self._figures()[2])

    def _look(self, pid: int) -> _Look:
        if self._gpu is None:
            return _Look(own=None, device=None)
        listed, device = self._gpu.memory_by_process(), self._gpu.memory_in_use()
        if device.value is None:
            self._reason = device.reason
        own = None if listed.value is None else listed.value.get(pid, 0)
        return _Look(own=own, device=device.value)
