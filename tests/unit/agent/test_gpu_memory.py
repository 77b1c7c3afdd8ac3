"""A leg's GPU memory, by the real pynvml over the stand-in driver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_glasshouse.agent.gpu_memory import RELEASED_WITHIN_S, GpuMemory
from pytest_glasshouse.guest.nvml import Nvml
from tests.fake_nvml.driver import SETTINGS, Driver, running_leg

MIB, GIB = 1 << 20, 1 << 30


class Time:
    """A clock that only pauses move; `then` is called after each of them."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.now, self.then = 0.0, then

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.then()


def observe(driver: Driver, *, time: Time | None = None, killed: bool = False, **left: object) -> dict[str, Any]:
    """What is claimed of a leg that ran with the driver's settings; `left` are those since its end."""
    time = time or Time()
    memory = GpuMemory(Nvml(driver.pynvml).gpus()[0], clock=lambda: time.now, pause=time.pause)
    with running_leg() as pid:
        memory.record_in_use(pid)
    if left:
        driver.set(**left)
    memory.await_release(pid, killed=killed)
    return memory.claims()


def test_memory_of_the_legs_process_is_seen_in_use_and_released(driver: Driver) -> None:
    assert observe(driver) == {"before": GIB, "after": 0, "of": "process", "reason": ""}


@pytest.mark.parametrize("setting", ["no-list", "host-pids", "list-missing", "list-forbidden", "list-unsupported"])
def test_where_no_process_of_here_is_listed_the_devices_memory_is_used(setting: str, driver: Driver) -> None:
    """In a container the driver lists none, or those of the host; memory that stays in use is still seen."""
    driver.set(**SETTINGS[setting])
    assert observe(driver) == {"before": GIB, "after": 0, "of": "device", "reason": ""}
    assert observe(driver, used=40 * MIB)["after"] == 40 * MIB


def test_drift_of_the_whole_device_does_not_touch_the_processs_own_figure(driver: Driver) -> None:
    driver.set(drift=2 * MIB, listed="none")
    assert observe(driver) == {"before": GIB + 2 * MIB, "after": 2 * MIB, "of": "device", "reason": ""}
    driver.set(drift=2 * MIB)
    assert observe(driver, drift=4 * MIB) == {"before": GIB, "after": 0, "of": "process", "reason": ""}


def test_memory_that_is_freed_late_is_waited_for(driver: Driver) -> None:
    """A driver frees the memory of a process after the process table has forgotten it."""
    time = Time(lambda: driver.set(listed="none", used=GIB if time.now < RELEASED_WITHIN_S / 2 else 0))
    driver.set(listed="none")
    assert observe(driver, time=time, listed="none", used=GIB)["after"] == 0
    assert RELEASED_WITHIN_S / 2 < time.now < RELEASED_WITHIN_S


def test_memory_that_stays_is_claimed_as_it_is_after_ten_seconds(driver: Driver) -> None:
    time = Time()
    driver.set(listed="none")
    assert observe(driver, time=time, listed="none", used=GIB)["after"] == GIB
    assert time.now == pytest.approx(10, abs=0.2)


def test_memory_of_a_killed_leg_is_not_waited_for(driver: Driver) -> None:
    """Who killed it waits for its exit."""
    time = Time()
    driver.set(listed="none")
    assert observe(driver, time=time, killed=True, listed="none", used=GIB)["after"] == GIB
    assert time.now == 0


def test_without_the_devices_memory_the_process_list_is_enough(driver: Driver) -> None:
    driver.set(**SETTINGS["no-memory"])
    assert observe(driver) == {"before": GIB, "after": 0, "of": "process", "reason": ""}


def test_without_either_nothing_is_claimed_and_the_reason_said(driver: Driver) -> None:
    driver.set(**SETTINGS["no-memory-no-list"])
    reason = "NVML gives no memory in use: Not Supported"
    assert observe(driver) == {"before": None, "after": None, "of": "nothing", "reason": reason}


def test_only_the_legs_own_gpu_counts(driver: Driver) -> None:
    """Another GPU may be lost or busy."""
    driver.set(count=2, handle1="lost")
    assert observe(driver)["after"] == 0


def test_leg_that_never_trained_has_no_memory_value_from_before(driver: Driver) -> None:
    gpu = GpuMemory(Nvml(driver.pynvml).gpus()[0])
    gpu.await_release(4242)
    assert gpu.claims() == {"before": None, "after": 0, "of": "device", "reason": "the leg never trained"}


def test_without_a_gpu_nothing_is_claimed() -> None:
    gpu = GpuMemory(None, reason="no NVIDIA driver on this machine")
    gpu.record_in_use(4242)
    gpu.await_release(4242)
    assert gpu.claims() == {"before": None, "after": None, "of": "nothing", "reason": "no NVIDIA driver on this machine"}
