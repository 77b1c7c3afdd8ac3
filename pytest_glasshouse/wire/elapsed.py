"""The clock that all durations are measured with, on host and guest: it is never set, and suspension does not stop it."""

from __future__ import annotations

import time


def since_boot_ns() -> int:
    """Nanoseconds since this machine started, including the time it was suspended."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
