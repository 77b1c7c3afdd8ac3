"""SIGINT, SIGTERM and SIGHUP as one orderly interrupt: allocations are ended first, then pytest finishes as after Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Which signal in a row gives up on an orderly end.
_GIVE_UP_AT = 3


class Signals:
    """Calls `first` with the signal's name on the first signal, then raises `KeyboardInterrupt`. The second only asks to wait."""

    def __init__(self, first: Callable[[str], None]) -> None:
        self._first = first
        self._seen = 0
        self._before: dict[signal.Signals, object] = {}

    def install(self) -> None:
        """Take the signals over, where this is the main thread. SIGHUP stays ignored where it is, as under `nohup`."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._seen += 1
        name = signal.Signals(number).name
        if self._seen == 1:
            self._first(name)
        elif self._seen < _GIVE_UP_AT:
            with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal any more
                os.write(2, b"\nglasshouse: still ending the run; once more to abandon it\n")
            return
        raise KeyboardInterrupt(name)
