"""A thread that checks the run's limits while rows run, and ends everything at once when a signal handler asks for it.

The signal handler only writes one byte: anything else could wait for a lock that the interrupted code holds.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERVAL_S = 0.5


class LimitWatch:
    """Calls `check` twice a second, and `end_now` once after `request_end`."""

    def __init__(self, *, check: Callable[[], None], end_now: Callable[[], None]) -> None:
        self._check = check
        self._end_now = end_now
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._end_requested = False
        self._done = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="glasshouse-watch", daemon=True)
        self._thread.start()

    def request_end(self, *, wait_s: float) -> None:
        """Let the thread end everything now, and wait for that up to `wait_s`. Safe in a signal handler."""
        self._end_requested = True
        if self._closed:
            return
        with contextlib.suppress(OSError):
            os.write(self._write, b"!")
        until = time.monotonic() + wait_s
        while not self._done and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop the thread."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            os.write(self._write, b".")
        self._thread.join(timeout=5)
        if not self._thread.is_alive():
            os.close(self._read)
            os.close(self._write)

    def _run(self) -> None:
        while not self._closed:
            ready, _, _ = select.select([self._read], [], [], _INTERVAL_S)
            if ready:
                os.read(self._read, 64)
            if self._end_requested and not self._done:
                with contextlib.suppress(Exception):  # the signal handler waits for `_done`, whatever happens
                    self._end_now()
                self._done = True
            elif not self._closed and not self._end_requested:
                self._check()
