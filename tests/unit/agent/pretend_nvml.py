"""A GPU's memory as its driver would show it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any


class PretendNvml:
    """One GPU: `used` bytes in all, and what each listed process has."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, *, driver: bool = True) -> None:
        self.driver, self.used, self.processes = driver, 1000, dict[int, int]()

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.driver:
            raise self.NVMLError

    def nvmlShutdown(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetMemoryInfo(self, _handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, _handle: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.processes.items()]
