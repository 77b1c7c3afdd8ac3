"""The clock that all durations are measured with, on host and guest: it is never set, and suspension does not stop it."""

from __future__ import annotations

import time
from collections.abc import Callable


def since_boot_ns() -> int:
    """Nanoseconds since this machine started, including the time it was suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def wall_clock_us() -> Callable[[], int]:
    """A clock of microseconds since 1970: the wall clock as it is now, and from here on never set."""
    began_us = (time.time_ns() - since_boot_ns()) // 1000
    return lambda: began_us + since_boot_ns() // 1000
