"""A clock that only a test moves: what a loopback provider does later happens at its moment, however fast the machine is."""

from __future__ import annotations

from collections.abc import Callable


class ManualClock:
    """Seconds since the epoch, by default in 2027."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._due: list[tuple[float, Callable[[], None]]] = []

    def read(self) -> float:
        """What time it is."""
        return self._now

    def after(self, seconds: float, act: Callable[[], None]) -> None:
        """`act` when so much time has passed."""
        self._due.append((self._now + seconds, act))

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due happen in its order."""
        end = self._now + seconds
        while due := [entry for entry in self._due if entry[0] <= end]:
            first = min(due, key=lambda entry: entry[0])
            self._due.remove(first)
            self._now = max(self._now, first[0])
            first[1]()
        self._now = end
