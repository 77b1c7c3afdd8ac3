"""The guest's monotonic clock, in numbers that canonical JSON can hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.canonical import INTEGER_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable


def now_ns(clock_ns: Callable[[], int] = time.monotonic_ns) -> int:
    """Nanoseconds of the monotonic clock, modulo 2^53.

    The clock starts with the machine, so it passes 2^53 after 104 days. A leg that runs at the wrap goes back in time, and its
    row must be run again.
    """
    return clock_ns() & INTEGER_LIMIT
