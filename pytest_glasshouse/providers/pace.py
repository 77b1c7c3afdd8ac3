"""No faster than so often. Time is an argument; nobody holds a lock while waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pace:
    """Turns at least `interval_s` apart, for whichever threads ask."""

    def __init__(
        self, interval_s: float, *, monotonic: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._interval_s, self._monotonic, self._sleep = interval_s, monotonic, sleep
        self._lock = threading.Lock()
        self._next = float("-inf")

    def wait(self) -> None:
        """Return when it is this caller's turn."""
        with self._lock:
            now = self._monotonic()
            turn = max(self._next, now)
            self._next = turn + self._interval_s
        if turn > now:
            self._sleep(turn - now)
