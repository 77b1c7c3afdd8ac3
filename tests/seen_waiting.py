"""A condition that says when a thread waits for it: a test goes on then, and knows that the thread has what it waits for before it."""

from __future__ import annotations

import threading


class SeenWaiting(threading.Condition):
    """`waited` is set when the first thread waits. Whoever has the lock after that has it because the thread gave it up to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.set()
        return super().wait(timeout)
