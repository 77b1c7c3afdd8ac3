"""How much a guest may say: while one leg is followed, and in all rows of one process.

What it says goes into the observation and stays there, so that a guest without an end would fill memory and report. What is
fetched (an adapter) is held once and bounded by what was sent; it is not counted here.
"""

from __future__ import annotations

from pytest_glasshouse.errors import ProtocolError

_MIB = 1 << 20
#: A leg says one line of some 450 bytes a second while it trains: this is a day and a half of them.
LEG_BYTES = 64 * _MIB
LEG_EVENTS = 200_000
#: Sixty-four legs that say all they may; an honest run of three hundred rows says a tenth of it.
RUN_BYTES = 4096 * _MIB


class Allowance:
    """What is left of it. One for all channels of a process."""

    def __init__(self, *, leg_bytes: int = LEG_BYTES, leg_events: int = LEG_EVENTS, run_bytes: int = RUN_BYTES) -> None:
        self._leg_bytes, self._leg_events = leg_bytes, leg_events
        self._run_left = run_bytes
        self.begin()

    def begin(self, legs: int = 1) -> None:
        """So many legs are about to be started and followed together."""
        self._bytes_left, self._events_left = legs * self._leg_bytes, legs * self._leg_events

    def take(self, count: int, *, events: int = 0) -> None:
        """So much was said. Raises `ProtocolError` when it was too much."""
        self._bytes_left -= count
        self._events_left -= events
        self._run_left -= count
        if self._bytes_left < 0 or self._events_left < 0:
            raise ProtocolError(
                f"the guest said more than a leg has to say: at most {self._leg_bytes >> 20} MiB and {self._leg_events} events"
            )
        if self._run_left < 0:
            raise ProtocolError("the guests of this run said more than all their legs have to say")
