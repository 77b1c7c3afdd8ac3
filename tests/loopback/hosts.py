"""The machines of a loopback account: what of each an order can ask for."""

from __future__ import annotations

from dataclasses import dataclass

#: GPU memory in GB.
MEMORY_GB = {"NVIDIA H100 80GB HBM3": 80, "NVIDIA RTX PRO 6000 Blackwell Server Edition": 96, "NVIDIA RTX A4000": 16}


@dataclass(frozen=True, kw_only=True)
class Host:
    """A machine on offer: the newest CUDA version of its driver, its memory and disk in GB, and where it stands."""

    cuda: str = "12.8"
    memory_gb: float = 128.0
    disk_gb: float = 500.0
    data_center: str = "US-KS-2"

    @property
    def cuda_numbers(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.cuda.split("."))
