"""The clock that measures how long something took, whoever tells of it: one that nobody sets and no suspension stops."""

from __future__ import annotations

import time


def since_boot_ns() -> int:
    """Nanoseconds since this machine started, the time it was suspended too."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
