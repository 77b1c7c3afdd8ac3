"""The leg's end of its socketpair to the agent: messages, turns, and the thread that writes progress.

The agent forked the process that holds this end, so messages carry no sender. Both legs use these classes, so neither
formats, hashes, sends or waits within a step.
"""

from __future__ import annotations

import array
import os
import queue
import socket
import threading
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.peer_credentials import PeerCredentialSocket
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_glasshouse.guest.ranks import Ranks
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.segments import TrainedSegment

#: How long the background thread may take for its tasks: a longer wait means that the agent no longer reads.
_DEADLINE_S = 60.0


class Control:
    """Messages `{type, body}` both ways."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def fileno(self) -> int:
        """The descriptor of this end."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this process's descriptor of this end."""
        self._connection.close()

    def send(self, kind: str, body: Mapping[str, object], payload: bytes | memoryview = b"") -> None:
        """Send one message to the agent."""
        frames.send(self._connection, {"type": kind, "body": body}, payload)

    def send_descriptors(self, kind: str, body: Mapping[str, object], descriptors: list[int]) -> None:
        """Send one message, then descriptors that the agent receives with `PeerCredentialSocket.descriptors`."""
        self.send(kind, body)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self._connection.sendmsg([b"\0"], [rights])

    def descriptors(self, count: int) -> list[int]:
        """Receive `count` descriptors, sent with one byte. Raises `ProtocolError` for another number of them."""
        byte, taken, _, _ = socket.recv_fds(self._connection, 1, count)
        if byte != b"\0" or len(taken) != count:
            for descriptor in taken:
                os.close(descriptor)
            raise ProtocolError(f"expected {count} descriptors; saw {len(taken)}")
        return taken

    def send_large(self, kind: str, name: str, data: bytes | memoryview) -> None:
        """Send `data` in pieces under `name`; the agent holds it in memory."""
        for offset, piece in frames.pieces(data):
            self.send(kind, {"name": name, "offset": offset, "total": len(data)}, piece)

    def receive(self, *kinds: str) -> tuple[str, dict[str, Json]]:
        """Wait for one message of one of `kinds`. Raises `ProtocolError` for any other message and when the agent is gone."""
        received = self._receive()
        if received is None:
            raise ProtocolError("the agent closed the leg's control socket")
        message, _ = received
        kind, body = message.get("type"), message.get("body")
        if kind not in kinds or not isinstance(kind, str) or not isinstance(body, dict):
            raise ProtocolError(f"expected {' or '.join(kinds)} from the agent; saw {kind!r}")
        return kind, body

    def _receive(self) -> tuple[dict[str, Json], bytearray] | None:
        return frames.receive(self._connection)


class RankLink(Control):
    """Messages between two ranks of a node, over a socketpair: those of any other process than `pid` are refused."""

    def __init__(self, connection: socket.socket, pid: int) -> None:
        self._peer = PeerCredentialSocket(connection)
        self._peer.pid = pid
        super().__init__(connection)

    def descriptors(self, count: int) -> list[int]:
        """As `Control.descriptors`, from that process."""
        return self._peer.descriptors(count)

    def _receive(self) -> tuple[dict[str, Json], bytearray] | None:
        return frames.receive(self._peer)


class BackgroundWriter:
    """Runs submitted tasks in order in its own thread. Must be closed before secrets are wiped; no task may hold a secret."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed: list[BaseException] = []
        self._thread = threading.Thread(target=self._work, name="background-writer", daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Queue one task. Costs the caller a queue's lock and nothing else."""
        self._tasks.put(task)

    def drain(self) -> None:
        """Return when every submitted task is done. Raises the first exception of a task, and `TimeoutError`."""
        done = threading.Event()
        self._tasks.put(done.set)
        if not done.wait(_DEADLINE_S):
            raise TimeoutError(f"the agent did not take the leg's messages within {_DEADLINE_S:g} s")
        if self._failed:
            raise self._failed[0]

    def close(self) -> None:
        """Finish the queued tasks and end the thread."""
        self._tasks.put(None)
        self._thread.join(_DEADLINE_S)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception as error:  # noqa: BLE001  (`drain` raises it in the training thread)
                self._failed.append(error)


class ControlTurns:
    """Turns of an interleaved round, given by the agent. A paused leg blocks in a read, so it uses no processor.

    Of several `ranks`, each tells its own agent's thread what it does; the first is given the turns, and the others follow it.
    """

    def __init__(self, control: Control, writer: BackgroundWriter, ranks: Ranks | None = None) -> None:
        self._control = control
        self._writer = writer
        self._ranks = ranks
        self._collective_ns: list[int] = []
        self._repeat: Callable[[int], list[str]] = _nothing_to_repeat

    def repeat_with(self, repeat: Callable[[int], list[str]]) -> None:
        """What repeats so many steps of the prologue, and returns their losses."""
        self._repeat = repeat

    def warmed_up(self) -> None:
        if self._ranks is None or self._ranks.first:
            self._control.send("warm", {})
        self._follow()

    def resident(self, *, warmup_units: int, warmup_ns: int, steady: bool) -> None:
        if self._ranks is not None:
            self._ranks.barrier()
        self._control.send("resident", {"warmup_units": warmup_units, "warmup_ns": warmup_ns, "steady": steady})

    def wait(self) -> int | None:
        return self._follow() or None

    def _follow(self) -> int:
        """The next turn, or 0 where there is none; what is to be repeated before is repeated."""
        while (given := self._given()) < 0:
            self._control.send("repeated", {"losses": self._repeat(-given)})
        return given

    def _given(self) -> int:
        """A turn; 0 to go on without one; below it, how many steps to repeat. Every rank does what the first is told."""
        if self._ranks is not None:
            return self._ranks.agree(self._received() if self._ranks.first else 0)
        return self._received()

    def _received(self) -> int:
        kind, body = self._control.receive("turn", "finish", "go", "repeat")
        if kind == "repeat":
            return -check_typed(body.get("steps"), int, "steps")
        return check_typed(body.get("turn"), int, "turn") if kind == "turn" else 0

    def drain(self) -> None:
        """Return when the agent has spooled everything this leg sent: it answers `drain` after the messages before it.

        Of several ranks, when every one is here: a timed stretch begins and ends for all of them together.
        """
        self._writer.drain()
        ranks = self._ranks
        if ranks is not None:
            ranks.barrier()
        if ranks is not None and not ranks.first:
            # The first rank's agent has the server sign its time before it answers.
            ranks.barrier()
        self._control.send("drain", {})
        self._control.receive("drained")
        if ranks is not None and ranks.first:
            ranks.barrier()

    def clock_read(self) -> None:
        self._control.send("clock-read", {})
        if self._ranks is not None:
            self._collective_ns.append(self._ranks.group.collective_ns)

    @property
    def collective_ns(self) -> int:
        """Time that this rank spent in collectives within the timed stretches, in nanoseconds."""
        return sum(self._collective_ns[1::2]) - sum(self._collective_ns[::2])

    def done(self, segment: TrainedSegment) -> None:
        if self._ranks is not None:
            self._ranks.barrier()
        if self._ranks is None or self._ranks.first:
            self._control.send("turn-done", {"segment": [*segment.to_json()]})


def _nothing_to_repeat(_steps: int) -> list[str]:
    raise ProtocolError("expected to be asked for a repetition by a leg that trains")
