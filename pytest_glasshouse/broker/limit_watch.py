"""What looks at the clock while rows run: the budget, every allocation's deadline, and the wish to end it all at once.

A signal handler may only write one byte: whatever else it called could wait for a lock that the interrupted code holds.
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

_LOOK_S = 0.5


class Watch:
    """A thread that calls `look` twice a second, and `end_now` once after `ring`."""

    def __init__(self, *, look: Callable[[], None], end_now: Callable[[], None]) -> None:
        self._look = look
        self._end_now = end_now
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self.rung = False
        self.done = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="glasshouse-watch", daemon=True)
        self._thread.start()

    def ring(self, *, wait_s: float) -> None:
        """Let everything be ended now. Safe in a signal handler; waits until it was asked for, but not for ever."""
        self.rung = True
        if self._closed:
            return
        with contextlib.suppress(OSError):
            os.write(self._write, b"!")
        until = time.monotonic() + wait_s
        while not self.done and time.monotonic() < until:
            time.sleep(0.01)

    def close(self) -> None:
        """Stop looking."""
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
            ready, _, _ = select.select([self._read], [], [], _LOOK_S)
            if ready:
                os.read(self._read, 64)
            if self.rung and not self.done:
                with contextlib.suppress(Exception):  # whatever it was, `done` has to be said
                    self._end_now()
                self.done = True
            elif not self._closed and not self.rung:
                self._look()
