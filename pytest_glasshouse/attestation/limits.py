"""Limits on one client and one run: connections, time on them, requests per second, and state held by the server.

Knows sockets, addresses and numbers. Refuses to know messages; their limits are where they are read.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

CONNECTIONS = 256
REQUEST_S = 10.0
RATE_PER_S = 50.0
#: Seconds' worth of requests that a peer may accumulate: a row's five messages come close together.
BURST_S = 4.0
_MAX_PEERS = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the transport. A peer is what `peer_of` makes of an address.

    `rate_per_s` is per peer, None for no limit. `request_s` is the deadline for handshake and request together, for an idle
    connection, and for receiving the answer.
    """

    connections: int = CONNECTIONS
    request_s: float = REQUEST_S
    rate_per_s: float | None = None

    @property
    def connections_per_peer(self) -> int:
        """How many connections one peer may hold: half of them, so that no peer can take all."""
        return max(1, self.connections // 2)


@dataclass(frozen=True, kw_only=True)
class Caps:
    """How much state a server holds at once. No run may take all of it, so that a flood by one run leaves room for the others.

    `challenges` counts nonces, spent ones too until they expire; `open_challenges` the unspent ones of one session.
    """

    packages: int = 1024
    sessions: int = 8192
    sessions_of_a_run: int = 2048
    challenges: int = 4096
    challenges_of_a_run: int = 2048
    open_challenges: int = 4


def peer_of(address: str) -> str:
    """The unit that limits count: an IPv4 address, or the /64 network of an IPv6 address.

    An IPv4 address embedded in an IPv6 one counts as itself (RFC 4291 section 2.5.5.2, RFC 3056, RFC 4380).
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    inside = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
    return str(inside) if inside is not None else f"{ipaddress.IPv6Address(int(found) >> 64 << 64)}/64"


class PeerRateLimiter:
    """A token bucket for each recent peer. The least recent peer is forgotten first."""

    def __init__(
        self, rate_per_s: float | None, *, burst_s: float = BURST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate_per_s
        self._burst_s = burst_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, address: str) -> Literal["admitted", "refused", "refused again"]:
        """Whether a request from this address is admitted. `refused again` follows a refusal, which alone is logged."""
        if self._rate is None:
            return "admitted"
        peer, now, most = peer_of(address), self._clock(), self._rate * self._burst_s
        with self._lock:
            level, since, refused = self._buckets.pop(peer, (most, now, False))
            level = min(most, level + max(0.0, now - since) * self._rate)  # a wall clock may be set back
            allowed = level >= 1
            self._buckets[peer] = (level - allowed, now, not allowed)
            while len(self._buckets) > _MAX_PEERS:
                self._buckets.popitem(last=False)
        return "admitted" if allowed else "refused again" if refused else "refused"


class ConcurrencyLimit:
    """Limits how many messages are read and answered at once, and each peer to half of them."""

    def __init__(self, most: int) -> None:
        self._all = threading.Semaphore(most)
        self._half = max(1, most // 2)
        self._of_peer: dict[str, tuple[threading.Semaphore, int]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def slot(self, address: str) -> Iterator[None]:
        """Wait for a slot of the peer with this address, and hold it."""
        peer = peer_of(address)
        with self._lock:
            own, users = self._of_peer.get(peer, (threading.Semaphore(self._half), 0))
            self._of_peer[peer] = own, users + 1
        try:
            with own, self._all:
                yield
        finally:
            with self._lock:
                own, users = self._of_peer.pop(peer)
                if users > 1:
                    self._of_peer[peer] = own, users - 1


@dataclass(kw_only=True)
class _OpenConnection:
    """An open connection: its peer, its state, the deadline of that state, and whether it was shut down."""

    peer: str
    deadline: float
    state: Literal["reading", "answering", "writing"] = "reading"
    shut_down: bool = False


class Connections:
    """The open connections, each with the deadline for its whole request or for receiving its answer.

    A new connection is admitted; where its peer's limit or the total is reached, the one that is idle longest is shut down.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._held: dict[socket.socket, _OpenConnection] = {}
        self._changed = threading.Condition()
        self.stopping = False

    def admit(self, connection: socket.socket, address: str) -> bool:
        """Admit this connection; it counts until `remove`. False where every connection it could replace is being answered."""
        with self._changed:
            # A connection that was shut down keeps its thread for a moment: those are bounded too.
            if self.stopping or len(self._held) >= 2 * self._limits.connections:
                return False
            peer = peer_of(address)
            sizes = Counter(held.peer for held in self._held.values() if not held.shut_down)
            at_peer_limit = sizes[peer] >= self._limits.connections_per_peer

            def may_replace(held: _OpenConnection) -> bool:
                return held.peer == peer or (not at_peer_limit and sizes[held.peer] > sizes[peer])

            if (at_peer_limit or sizes.total() >= self._limits.connections) and not self._make_room(may_replace, sizes):
                return False
            self._held[connection] = _OpenConnection(peer=peer, deadline=self._clock() + self._limits.request_s)
            return True

    def _make_room(self, may_replace: Callable[[_OpenConnection], bool], sizes: Counter[str]) -> bool:
        candidates = [
            (each, held)
            for each, held in self._held.items()
            if held.state != "answering" and not held.shut_down and may_replace(held)
        ]
        if not candidates:
            return False
        _shut_down(*max(candidates, key=lambda one: (sizes[one[1].peer], -one[1].deadline)))
        return True

    def make_room(self) -> None:
        """Shut down the longest idle connection of the peer that holds most: descriptors or threads ran out."""
        with self._changed:
            self._make_room(lambda _held: True, Counter(held.peer for held in self._held.values() if not held.shut_down))

    def replace(self, plain: socket.socket, wrapped: socket.socket) -> None:
        """The connection continues as another socket object (TLS)."""
        with self._changed:
            self._held[wrapped] = self._held.pop(plain)

    def reading(self, connection: socket.socket) -> None:
        """Start the deadline for the next whole request."""
        self._enter("reading", connection)

    def answering(self, connection: socket.socket) -> None:
        """A whole request has arrived; from here it is not interrupted."""
        self._enter("answering", connection)

    def writing(self, connection: socket.socket) -> None:
        """Start the deadline for the client to receive the answer."""
        self._enter("writing", connection)

    def _enter(self, state: Literal["reading", "answering", "writing"], connection: socket.socket) -> None:
        with self._changed:
            held = self._held[connection]
            held.state, held.deadline = state, self._clock() + self._limits.request_s
            self._changed.notify_all()

    def remove(self, connection: socket.socket) -> None:
        """Stop counting a connection that has ended."""
        with self._changed:
            self._held.pop(connection, None)
            self._changed.notify_all()

    def shut_down_overdue(self) -> None:
        """Shut down the connections past their deadline."""
        now = self._clock()
        with self._changed:
            for each, held in self._held.items():
                if now >= held.deadline and held.state != "answering" and not held.shut_down:
                    _shut_down(each, held)

    def drain(self, grace_s: float) -> None:
        """Admit no new connection, shut down idle ones, and wait for answers under way."""
        with self._changed:
            self.stopping = True
            for each, held in self._held.items():
                if held.state == "reading":
                    _shut_down(each, held)
            self._changed.wait_for(lambda: not self._held, timeout=grace_s)
            for each, held in self._held.items():
                _shut_down(each, held)


def _shut_down(connection: socket.socket, held: _OpenConnection) -> None:
    # The plain socket's shutdown, also for TLS: it ends the other thread's read and leaves the TLS object alone.
    held.shut_down = True
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
