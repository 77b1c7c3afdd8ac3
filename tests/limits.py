"""How long a test waits for what must happen: the only limits of the suite, and no assertion depends on them.

A limit here says that a test hangs, never that something was slow. `TEST_TIME_SCALE` multiplies all of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

#: Until a process or a thread that hangs is given up, in seconds.
HANG_S = 300.0 * float(os.environ.get("TEST_TIME_SCALE", "1"))


def until(happened: Callable[[], object], what: str) -> None:
    """Return as soon as `happened()` is true; after `HANG_S`, fail and say that `what` never happened."""
    end = time.monotonic() + HANG_S
    while not happened():
        if time.monotonic() >= end:
            raise AssertionError(f"expected {what} within {HANG_S:.0f} s; it did not happen")
        time.sleep(0.01)
