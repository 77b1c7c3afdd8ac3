"""The ranks of one leg on this node, as their agent sees them: one network for all, one evidence, and one end.

Each rank is a `LegProcess` with its own thread, process, measurement, scan and exit. Here they wait for each other, and here is
decided which rank ended the leg. What the ranks say to each other is not seen here.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.agent.node_network import NodeNetwork
from pytest_glasshouse.errors import ProtocolError, RankLostError
from pytest_glasshouse.wire.guest_messages import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import ChallengeAnswer, LegOrder, NodesOrder

_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP, _IFF_RUNNING = 0x8914, 0x1, 0x40
#: torch's own default, free in a network of the leg's own.
_PORT = 29500
#: How long ranks may take to be measured beside each other, and one whose loss others report to be seen to be gone.
_READY_S = 600.0
_LOST_S = 10.0
#: How often it is looked whether a rank is stopped: the others would wait for it as long as the leg may run.
_LOOK_S = 1.0


#: The reason of a leg one of whose ranks was stopped.
STOPPED = "RankStopped"


class RankNetwork:
    """Where the ranks of a leg on one node meet: a network namespace with nothing but loopback, or this machine's loopback.

    The second where the system gives no namespace: its ports can be reached by every process of the machine.
    """

    node, nodes, address, interface = 0, 1, "127.0.0.1", "lo"
    links: socket.socket | None = None
    meeting: None = None

    def __init__(self, own: Callable[[], tuple[int, socket.socket]] | None = None) -> None:
        """`own` makes a namespace and listens in it, or raises `OSError`."""
        self.namespace: int | None = None
        # A namespace is a thread's: what is made in one that ends leaves this process's threads where they were.
        with ThreadPoolExecutor(1, "rank-network") as once:
            try:
                self.namespace, self.listener = once.submit(own or _own_network).result()
            except OSError:
                self.listener = _listening(0)
        self.port = int(self.listener.getsockname()[1])

    def close(self) -> None:
        """Close what the agent holds of it; the ranks have their own descriptors."""
        self.listener.close()
        if self.namespace is not None:
            os.close(self.namespace)
            self.namespace = None


def _own_network() -> tuple[int, socket.socket]:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP | _IFF_RUNNING))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC), _listening(_PORT)


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


class GroupedRank(Protocol):
    """One rank as its group uses it."""

    @property
    def leg_pid(self) -> int: ...
    def end_process(self) -> None: ...
    def wait(self, timeout_s: float) -> bool: ...


class RankGroup:
    """All ranks of one leg on this node, counted from 0. Every method may be called by any rank's thread."""

    def __init__(self, size: int, nodes: NodesOrder | None = None) -> None:
        """Of a leg over several `nodes`, raises `ProtocolError` where the ranks could not meet."""
        self.size = size
        self.network: RankNetwork | NodeNetwork = RankNetwork() if nodes is None else NodeNetwork(nodes)
        #: Which rank of the leg this node's first one is.
        self._before = self.network.node * size
        self._linked = False
        self._changed = threading.Condition()
        self._ranks: dict[int, GroupedRank] = {}
        self._claims: dict[int, dict[str, Json]] = {}
        self._links: dict[int, int] = {}
        self._challenge: ChallengeAnswer | None = None
        self._ended: set[int] = set()
        #: Why the leg ended before its time: the rank, and the body of its `failed`.
        self._failure: tuple[int, dict[str, Json]] | None = None
        self._rumour: tuple[int, dict[str, Json]] | None = None
        self._over = False

    def add(self, rank: int, process: GroupedRank) -> None:
        """One rank; called for each, in their order, before any is started."""
        self._ranks[rank] = process

    @property
    def others(self) -> list[GroupedRank]:
        """Every rank but the first."""
        return [process for rank, process in sorted(self._ranks.items()) if rank]

    def watch(self) -> None:
        """Look for a rank that is stopped until the leg is over, in a thread of its own; twice in a row ends the leg."""
        threading.Thread(target=self._watch, name="rank-watch", daemon=True).start()

    def _watch(self) -> None:
        before: list[int] = []
        while not self._is_over(_LOOK_S):
            now = self.stopped()
            if lasting := [rank for rank in now if rank in before]:
                self.failed(lasting[0] - self._before, {"reason": STOPPED, "detail": "its process is stopped"})
                return
            before = now

    def _is_over(self, within_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._over or 0 in self._ended or self._failure is not None, within_s)

    def link(self, rank: int, descriptor: int) -> None:
        """A rank's socket to the first."""
        with self._changed:
            if rank in self._links:
                raise ProtocolError(f"expected one link of rank {rank}; saw a second")
            self._links[rank] = descriptor
            self._changed.notify_all()

    def take_links(self) -> list[int]:
        """All of them, in the order of the ranks, for the first rank; the caller closes them."""
        with self._changed:
            self._wait(lambda: len(self._links) == self.size - 1, "every rank's link to the first")
            self._linked = True
            self._changed.notify_all()
            return [self._links[rank] for rank in range(1, self.size)]

    def first_pid(self) -> int:
        """The first rank's process, once it takes the links."""
        with self._changed:
            self._wait(lambda: self._linked, "the first rank to take the links")
            return self._ranks[0].leg_pid

    def measured(self, rank: int, claims: dict[str, Json]) -> None:
        """What was measured of a rank, for the leg's evidence."""
        with self._changed:
            self._claims[rank] = {"rank": rank, **claims}
            self._changed.notify_all()

    def all_measured(self) -> list[Json]:
        """What was measured of every rank but the first, in their order."""
        with self._changed:
            self._wait(lambda: len(self._claims) == self.size - 1, "every rank's measurement")
            return [self._claims[rank] for rank in range(1, self.size)]

    def pass_challenge(self, challenge: ChallengeAnswer) -> None:
        """The first rank has its challenge."""
        with self._changed:
            self._challenge = challenge
            self._changed.notify_all()

    def challenge(self) -> ChallengeAnswer:
        """The leg's challenge, when the first rank has it."""
        with self._changed:
            self._wait(lambda: self._challenge is not None, "the leg's challenge", within_s=None)
            assert self._challenge is not None  # noqa: S101  (waited for)
            return self._challenge

    def failed(self, rank: int, body: Mapping[str, Json]) -> None:
        """A rank said why it ends: the others end now. That it misses another one counts only where no other failed itself."""
        with self._changed:
            if body["reason"] == RankLostError.__name__:
                self._rumour = self._rumour or (rank, {**body})
                return
            self._failure = self._failure or (rank, {**body})
            self._changed.notify_all()
        self._end_all()

    def process_ended(self, rank: int, status: int) -> None:
        """A rank's process is gone; one that did not end by itself, and well, ends the leg."""
        with self._changed:
            self._ended.add(rank)
            if self._failure is None and not self._over and status != 0 and (self._rumour is None or self._rumour[0] != rank):
                self._failure = (rank, failure(RankLostError(f"its process ended with status {status} before its work was done")))
            self._changed.notify_all()
            if self._failure is None and not self._over and self._rumour is not None:
                # Whom it missed is gone, and its thread is about to tell; or stands still, and is about to be seen.
                self._changed.wait_for(lambda: self._failure is not None, _LOST_S)
                self._failure = self._failure or self._rumour
            failed = self._failure is not None
        if failed:
            self._end_all()

    def await_others(self, within_s: float) -> None:
        """Wait until the exit of every rank but the first is in the spool; end those that take longer."""
        if not all(process.wait(within_s) for process in self.others):
            self.end_all()
            for process in self.others:
                process.wait(_LOST_S)

    def failure(self) -> dict[str, Json] | None:
        """The body of the leg's `failed`, which names the rank; None where no rank failed."""
        if self._failure is None:
            return None
        rank, body = self._failure
        return failure_of(self._before + rank, body)

    def stopped(self) -> list[int]:
        """The ranks whose processes are stopped, and do not end by themselves."""
        return [self._before + rank for rank, process in sorted(self._ranks.items()) if _is_stopped(process.leg_pid)]

    def close(self) -> None:
        """Close every descriptor that the agent holds for the ranks."""
        self.network.close()
        self.close_links()

    def close_links(self) -> None:
        """Close the agent's descriptors of the links: the ranks alone have them then."""
        with self._changed:
            links, self._links = self._links, {}
        for descriptor in links.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def end_all(self) -> None:
        """End every rank: the leg is over, and none of them is to blame."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._end_all()

    def _end_all(self) -> None:
        for process in self._ranks.values():
            process.end_process()

    def _wait(self, condition: Callable[[], bool], what: str, *, within_s: float | None = _READY_S) -> None:
        def over() -> bool:
            return condition() or self._over or self._failure is not None or bool(self._ended)

        seen = self._changed.wait_for(over, within_s)
        if not condition():
            why = "a rank ended before" if seen else f"it did not come within {within_s:g} s"
            raise RankLostError(f"expected {what}; {why}")


def group_of(order: LegOrder) -> RankGroup | None:
    """The group of a leg with more ranks than one, here or on other nodes. Raises `ProtocolError`."""
    size, nodes = order.get("ranks", 1), order.get("nodes")
    return None if size == 1 and nodes is None else RankGroup(size, nodes)


def failure_of(rank: int, body: Mapping[str, Json]) -> dict[str, Json]:
    """`failed` of a leg for what one of its ranks said."""
    return failure(RankLostError(""), f"rank {rank}: {body['detail']}") | {"reason": body["reason"]}


def _is_stopped(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] in ("T", "t")
