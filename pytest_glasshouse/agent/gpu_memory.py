"""A leg's GPU memory as NVML reports it: the process's own where the driver lists processes, else the device's.

In a container the driver often lists no process. Then the devices' memory in use is compared with that before the leg
started. The host judges the figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json


class GpuMemory:
    """One leg's GPU memory. Must be made before the leg starts. `nvml` is pynvml or a fake."""

    def __init__(self, nvml: Any = None) -> None:
        if nvml is None:
            import pynvml

            nvml = pynvml
        self._nvml = nvml
        self._reason = ""
        self._own: dict[str, int] = {}
        self._device: dict[str, int] = {}
        self._idle = self._read(-1)[1]

    def record(self, when: str, pid: int) -> None:
        """Record the memory of process `pid`; `when` is `before` (while it trains) or `after` (when it is gone)."""
        own, device = self._read(pid)
        if own is None or device is None:
            return
        self._own[when] = own
        self._device[when] = max(0, device - (self._idle or 0))

    def claims(self) -> dict[str, Json]:
        """`before` and `after` in bytes, counted the same way, and which way; null with a reason where unavailable."""
        if "after" not in self._own:
            return {"before": None, "after": None, "of": "nothing", "reason": self._reason or "the leg was never started"}
        of, used = ("process", self._own) if self._own.get("before") else ("device", self._device)
        reason = "" if "before" in used else "the leg never trained"
        return {"before": used.get("before"), "after": used["after"], "of": of, "reason": reason}

    def _read(self, pid: int) -> tuple[int | None, int | None]:
        nvml = self._nvml
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            self._reason = "no NVIDIA driver on this machine"
            return None, None
        try:
            own = device = 0
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                device += int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
                for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle):
                    own += int(process.usedGpuMemory or 0) if process.pid == pid else 0
        except nvml.NVMLError as error:
            self._reason = f"NVML returned an error: {error}"
            return None, None
        else:
            return own, device
        finally:
            nvml.nvmlShutdown()
