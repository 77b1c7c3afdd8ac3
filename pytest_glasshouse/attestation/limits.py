"""What one client or one run may take of the server: connections, time on them, requests per second, and what is held for it.

Knows sockets, addresses and numbers. Refuses to know messages; the limits on those are where they are read.
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
#: Seconds' worth of requests that a peer may save up: a row's five messages come close together.
BURST_S = 4.0
_PEERS = 4096


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What all peers and one of them may take. A peer is what `peer_of` makes of an address.

    `rate_per_s` is a peer's, None for no limit. `request_s` is for the handshake and a request, whole; for idling; and for
    taking the answer.
    """

    connections: int = CONNECTIONS
    request_s: float = REQUEST_S
    rate_per_s: float | None = None

    @property
    def share(self) -> int:
        """How many of the connections one peer may hold: half of them, so that nobody alone is everybody."""
        return max(1, self.connections // 2)


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


def peer_of(address: str) -> str:
    """Whose address it is, for counting: an IPv4 address, or the 64 bits an IPv6 network is handed out by.

    An IPv4 address is itself in whichever form it comes (RFC 4291 section 2.5.5.2, RFC 3056, RFC 4380).
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    inside = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
    return str(inside) if inside is not None else f"{ipaddress.IPv6Address(int(found) >> 64 << 64)}/64"


class Peers:
    """A bucket of requests for each peer that asked lately. The one that was silent longest is forgotten first."""

    def __init__(
        self, rate_per_s: float | None, *, burst_s: float = BURST_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate_per_s
        self._burst_s = burst_s
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float, bool]] = OrderedDict()
        self._lock = threading.Lock()

    def ask(self, address: str) -> Literal["yes", "no", "still no"]:
        """Whether whoever has this address may ask. `still no` is a refusal right after one: a line in a log is enough."""
        if self._rate is None:
            return "yes"
        peer, now, most = peer_of(address), self._clock(), self._rate * self._burst_s
        with self._lock:
            level, since, refused = self._buckets.pop(peer, (most, now, False))
            level = min(most, level + max(0.0, now - since) * self._rate)  # a wall clock may be set back
            allowed = level >= 1
            self._buckets[peer] = (level - allowed, now, not allowed)
            while len(self._buckets) > _PEERS:
                self._buckets.popitem(last=False)
        return "yes" if allowed else "still no" if refused else "no"


class ConcurrencyLimit:
    """How many messages are read and answered at once, and that no peer has more than half of them under way."""

    def __init__(self, most: int) -> None:
        self._all = threading.Semaphore(most)
        self._half = max(1, most // 2)
        self._of_peer: dict[str, tuple[threading.Semaphore, int]] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def turn(self, address: str) -> Iterator[None]:
        """Wait for a turn of the peer with this address, and hold it."""
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
class _Held:
    """An open connection: whose it is, what it is at, by when that must be over, and whether it was told to go."""

    peer: str
    deadline: float
    at: Literal["reading", "answering", "writing"] = "reading"
    cut: bool = False


class Connections:
    """The open connections, each with the moment by which it must have said something whole, or taken its answer.

    Whoever comes is let in: where its peer's share or the whole is taken, in place of the one that kept us waiting longest.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._held: dict[socket.socket, _Held] = {}
        self._changed = threading.Condition()
        self.stopping = False

    def admit(self, connection: socket.socket, address: str) -> bool:
        """Let this connection in; it is counted until `gone`. False where all it could replace are being answered."""
        with self._changed:
            # Who was told to go still has a thread, for a moment: of those, too, there are only so many.
            if self.stopping or len(self._held) >= 2 * self._limits.connections:
                return False
            peer = peer_of(address)
            sizes = Counter(held.peer for held in self._held.values() if not held.cut)
            at_share = sizes[peer] >= self._limits.share

            def may_go(held: _Held) -> bool:
                return held.peer == peer or (not at_share and sizes[held.peer] > sizes[peer])

            if (at_share or sizes.total() >= self._limits.connections) and not self._make_room(may_go, sizes):
                return False
            self._held[connection] = _Held(peer=peer, deadline=self._clock() + self._limits.request_s)
            return True

    def _make_room(self, may_go: Callable[[_Held], bool], sizes: Counter[str]) -> bool:
        those = [(each, held) for each, held in self._held.items() if held.at != "answering" and not held.cut and may_go(held)]
        if not those:
            return False
        _cut(*max(those, key=lambda one: (sizes[one[1].peer], -one[1].deadline)))
        return True

    def make_room(self) -> None:
        """End the connection that kept us waiting longest, of the peer that holds most: something else than room ran out."""
        with self._changed:
            self._make_room(lambda _held: True, Counter(held.peer for held in self._held.values() if not held.cut))

    def became(self, plain: socket.socket, wrapped: socket.socket) -> None:
        """The connection goes on as another object."""
        with self._changed:
            self._held[wrapped] = self._held.pop(plain)

    def waiting(self, connection: socket.socket) -> None:
        """The connection is for the client to use: a request must come, whole, in time."""
        self._is_at("reading", connection)

    def answering(self, connection: socket.socket) -> None:
        """A whole request came, and is not interrupted."""
        self._is_at("answering", connection)

    def writing(self, connection: socket.socket) -> None:
        """The answer is there, for the client to take in time."""
        self._is_at("writing", connection)

    def _is_at(self, what: Literal["reading", "answering", "writing"], connection: socket.socket) -> None:
        with self._changed:
            held = self._held.get(connection)
            if held is not None:
                held.at, held.deadline = what, self._clock() + self._limits.request_s
                self._changed.notify_all()

    def gone(self, connection: socket.socket) -> None:
        """The connection has ended."""
        with self._changed:
            self._held.pop(connection, None)
            self._changed.notify_all()

    def cut_overdue(self) -> None:
        """End the connections whose time is over."""
        now = self._clock()
        with self._changed:
            for each, held in self._held.items():
                if now >= held.deadline and held.at != "answering" and not held.cut:
                    _cut(each, held)

    def drain(self, grace_s: float) -> None:
        """Let in nobody new, end who waits, and wait for the answers under way."""
        with self._changed:
            self.stopping = True
            for each, held in self._held.items():
                if held.at == "reading":
                    _cut(each, held)
            self._changed.wait_for(lambda: not self._held, timeout=grace_s)
            for each, held in self._held.items():
                _cut(each, held)


def _cut(connection: socket.socket, held: _Held) -> None:
    # The plain socket's shutdown, also for TLS: it ends the other thread's read and changes nothing under it.
    held.cut = True
    with contextlib.suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
