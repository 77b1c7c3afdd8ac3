"""A leg's GPU memory, with a fake driver."""

from __future__ import annotations

from pytest_glasshouse.agent.gpu_memory import GpuMemory
from tests.unit.agent.pretend_nvml import PretendNvml

LEG = 4242


def test_memory_of_the_legs_process_is_seen_in_use_and_released() -> None:
    nvml = PretendNvml()
    gpu = GpuMemory(nvml)
    nvml.used, nvml.processes = 501_000, {LEG: 500_000, 1: 7}
    gpu.record("before", LEG)
    nvml.used, nvml.processes = 90_000, {1: 7}
    gpu.record("after", LEG)
    assert gpu.claims() == {"before": 500_000, "after": 0, "of": "process", "reason": ""}


def test_where_no_process_is_listed_the_devices_memory_is_used() -> None:
    """In a container the driver lists none; memory that stays in use is still seen."""
    nvml = PretendNvml()
    gpu = GpuMemory(nvml)
    nvml.used = 501_000
    gpu.record("before", LEG)
    nvml.used = 41_000
    gpu.record("after", LEG)
    assert gpu.claims() == {"before": 500_000, "after": 40_000, "of": "device", "reason": ""}


def test_leg_that_never_trained_has_no_memory_value_from_before() -> None:
    gpu = GpuMemory(PretendNvml())
    gpu.record("after", LEG)
    assert gpu.claims() == {"before": None, "after": 0, "of": "device", "reason": "the leg never trained"}


def test_without_a_driver_nothing_is_claimed() -> None:
    gpu = GpuMemory(PretendNvml(driver=False))
    gpu.record("after", LEG)
    assert gpu.claims() == {"before": None, "after": None, "of": "nothing", "reason": "no NVIDIA driver on this machine"}
