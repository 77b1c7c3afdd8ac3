"""Limits how much a guest may send: while one leg is followed, and in all rows of one process.

Events stay in the observation, so a guest that never stops would fill memory and report. A fetched item (an adapter) is held
once and bounded by the material's size; it is not counted here.
"""

from __future__ import annotations

from pytest_glasshouse.errors import ProtocolError

_MIB = 1 << 20
#: A leg sends one line of some 450 bytes a second while it trains: this is a day and a half of them.
LEG_BYTES = 64 * _MIB
LEG_EVENTS = 200_000
#: Sixty-four legs at their limit; an honest run of three hundred rows sends a tenth of it.
RUN_BYTES = 4096 * _MIB


class Allowance:
    """The bytes and events left. One for all channels of a process."""

    def __init__(self, *, leg_bytes: int = LEG_BYTES, leg_events: int = LEG_EVENTS, run_bytes: int = RUN_BYTES) -> None:
        self._leg_bytes, self._leg_events = leg_bytes, leg_events
        self._run_left = run_bytes
        self.begin()

    def begin(self, legs: int = 1) -> None:
        """Reset for `legs` legs that are followed together."""
        self._bytes_left, self._events_left = legs * self._leg_bytes, legs * self._leg_events

    def take(self, count: int, *, events: int = 0) -> None:
        """Count what was received. Raises `ProtocolError` over a limit."""
        self._bytes_left -= count
        self._events_left -= events
        self._run_left -= count
        if self._bytes_left < 0 or self._events_left < 0:
            raise ProtocolError(f"expected at most {self._leg_bytes >> 20} MiB and {self._leg_events} events of a leg; saw more")
        if self._run_left < 0:
            raise ProtocolError("expected fewer bytes from the guests of this run than all their legs send; saw more")
