"""A GPU's covariates as its driver would show them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """As pynvml's."""


class FakeNvml:
    """A fake GPU; functions in `hidden` raise, `pids` are its processes."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVMLError = NVMLError

    def __init__(self, *, hidden: tuple[str, ...] = (), pids: tuple[int, ...] = (), present: bool = True) -> None:
        self._hidden = hidden
        self._pids = pids
        self._present = present

    def nvmlInit(self) -> None:  # noqa: N802
        if not self._present:
            raise NVMLError("no driver")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        return f"device {index}"

    def _answer(self, name: str, value: Any) -> Any:
        if name in self._hidden:
            raise NVMLError("not supported")
        return value

    def nvmlDeviceGetClockInfo(self, device: str, kind: int) -> Any:  # noqa: N802
        return self._answer("clock", {1: 1980, 2: 2619}[kind])

    def nvmlDeviceGetTemperature(self, device: str, kind: int) -> Any:  # noqa: N802
        return self._answer("temperature", 51)

    def nvmlDeviceGetPowerUsage(self, device: str) -> Any:  # noqa: N802
        return self._answer("power", 350_000)

    def nvmlDeviceGetTotalEnergyConsumption(self, device: str) -> Any:  # noqa: N802
        return self._answer("energy", 10**12)

    def nvmlDeviceGetCurrentClocksEventReasons(self, device: str) -> Any:  # noqa: N802
        return self._answer("reasons", 0x4)

    def nvmlDeviceGetComputeRunningProcesses(self, device: str) -> Any:  # noqa: N802
        return self._answer("processes", [SimpleNamespace(pid=pid) for pid in self._pids])
