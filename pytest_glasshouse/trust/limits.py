"""What one client or one run may take of the server: connections, time on them, requests per second, and what is held for it.

Knows sockets, addresses and numbers. Refuses to know messages; the limits on those are where they are read.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

CONNECTIONS = 256
REQUEST_S = 10.0
RATE_PER_S = 50.0
#: Seconds' worth of requests that a peer may save up: a row's five messages come close together.
BURST_S = 4.0
_PEERS = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`rate_per_s` is per peer's address, None for no limit; `request_s` is for sending a request whole, and for idling."""

    connections: int = CONNECTIONS
    request_s: float = REQUEST_S
    rate_per_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Caps:
    """What a server holds at once. No run may take all of it: what one run floods is there for the others.

    `challenges` are nonces, spent ones too until they expire; `open_challenges` are the unspent ones of one session.
    """

    packages: int = 1024
    sessions: int = 8192
    sessions_of_a_run: int = 2048
    challenges: int = 4096
    challenges_of_a_run: int = 2048
    open_challenges: int = 4


class Peers:
    """A bucket of requests for each address that asked lately. The address that was silent longest is forgotten first."""

    def __init__(self, rate_per_s: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate_per_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, address: str) -> Literal["yes", "no", "still no"]:
        """Whether this address may ask now. `still no` is a refusal right after a refusal: one line in a log is enough."""
        if self._rate is None:
            return "yes"
        now, most = self._clock(), self._rate * BURST_S
        with self._lock:
            level, since, refused = self._buckets.pop(address, (most, now, False))
            level = min(most, level + (now - since) * self._rate)
            allowed = level >= 1
            self._buckets[address] = (level - allowed, now, not allowed)
            while len(self._buckets) > _PEERS:
                self._buckets.popitem(last=False)
        return "yes" if allowed else "still no" if refused else "no"


class Connections:
    """The open connections, each with the moment by which it must have said something whole."""

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._deadlines: dict[socket.socket, float] = {}
        self._answering: set[socket.socket] = set()
        self._changed = threading.Condition()
        self.stopping = False

    def admit(self, connection: socket.socket) -> bool:
        """Whether there is room for this connection; if so it is counted until `gone`."""
        with self._changed:
            if self.stopping or len(self._deadlines) >= self._limits.connections:
                return False
            self._deadlines[connection] = self._clock() + self._limits.request_s
            return True

    def waiting(self, connection: socket.socket) -> None:
        """The connection is for the client to use: a request must come, whole, in time."""
        with self._changed:
            self._answering.discard(connection)
            self._deadlines[connection] = self._clock() + self._limits.request_s
            self._changed.notify_all()

    def answering(self, connection: socket.socket) -> None:
        """A whole request came, and is not interrupted."""
        with self._changed:
            self._answering.add(connection)

    def gone(self, connection: socket.socket) -> None:
        """The connection has ended."""
        with self._changed:
            self._deadlines.pop(connection, None)
            self._answering.discard(connection)
            self._changed.notify_all()

    def cut_overdue(self) -> None:
        """End the connections whose time is over."""
        now = self._clock()
        with self._changed:
            late = [each for each, deadline in self._deadlines.items() if now >= deadline and each not in self._answering]
        for each in late:
            _cut(each)

    def drain(self, grace_s: float) -> None:
        """Let in nobody new, end who waits, and wait for the answers under way."""
        with self._changed:
            self.stopping = True
            idle = [each for each in self._deadlines if each not in self._answering]
        for each in idle:
            _cut(each)
        with self._changed:
            self._changed.wait_for(lambda: not self._deadlines, timeout=grace_s)
            rest = list(self._deadlines)
        for each in rest:
            _cut(each)


def _cut(connection: socket.socket) -> None:
    # The plain socket's shutdown, also for TLS: it ends the other thread's read and changes nothing under it.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
