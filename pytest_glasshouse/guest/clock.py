"""The guest's clock as it tells of it: monotonic, and in numbers that canonical JSON can hold."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.canonical import INTEGER_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable


def now_ns(clock_ns: Callable[[], int] = time.monotonic_ns) -> int:
    """Nanoseconds of the monotonic clock, counted anew every 2^53.

    The clock starts with the machine: one that has been up for 104 days could say nothing else. A leg that runs when it is
    counted anew goes back in time, and its row has to be run again.
    """
    return clock_ns() & INTEGER_LIMIT
