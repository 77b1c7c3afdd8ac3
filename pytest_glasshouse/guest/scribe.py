"""What a leg says while it trains, written by a thread of its own: the training thread hands it over and goes on.

Both legs use this one class, so that neither formats, hashes, sends or waits on the path of a step. It knows acts, in
their order, and refuses to know what they say. Nothing secret is handed to it.
"""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: How long the thread may take to do what it was handed: longer is a leg whose agent does not listen any more.
_DEADLINE_S = 60.0


class Scribe:
    """Does what it is handed, one after the other, in its own thread. To be closed before anything is wiped."""

    def __init__(self) -> None:
        self._acts: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
        self._thread.start()

    def hand(self, act: Callable[[], None]) -> None:
        """Take over one act. Costs the caller a queue's lock and nothing else."""
        self._acts.put(act)

    def drain(self) -> None:
        """Return when everything handed over is done. Raises what one of the acts raised, and `TimeoutError`."""
        done = threading.Event()
        self._acts.put(done.set)
        if not done.wait(_DEADLINE_S):
            raise TimeoutError("what the leg said was not taken in time")
        if self._failed:
            raise self._failed[0]

    def close(self) -> None:
        """Do what is left and end the thread."""
        self._acts.put(None)
        self._thread.join(_DEADLINE_S)

    def _work(self) -> None:
        while (act := self._acts.get()) is not None:
            try:
                act()
            except Exception as error:  # noqa: BLE001  (raised again where the leg waits for this thread)
                self._failed.append(error)
