"""How the host talks to a guest: one unix socket, whoever stands behind it.

A remote guest is reached through the same socket forwarded by OpenSSH; this module cannot tell, and need not.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol, cast

from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.errors import FrameCutError, GuestGoneError, GuestRefusedError, ProtocolError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.guest_messages import DETAIL, check_events, check_reply
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_glasshouse.wire.canonical import Json

_PULL_WAIT_MS = 250
#: An answer that takes longer than this is no answer: every operation of the agent is quick but `pull`.
_TIMEOUT_S = 30.0
#: What a request carries, and a piece it asks for, may take as long as this rate needs beside it, in bytes per second.
_SLOWEST = 64 * 1024
#: The largest item a guest holds for us where nobody knows better: the adapter of a 7B model with every linear layer at
#: rank 64 has 640 MB.
MOST_ITEM = 2 << 30
#: How long a request to a guest elsewhere is tried again over a broken connection before the guest counts as gone.
PATIENCE_S = 120.0
#: Between two tries to reach a guest whose connection broke.
_AGAIN_S = 0.2


#: How often it is asked, while a guest cannot be reached, whether its provider still has it.
_ASK_EVERY_S = 3.0


class Channel(Protocol):
    """The operations the legs need; mock faults stand in front of a real one with the same shape."""

    @property
    def gone(self) -> bool:
        """Whether the guest stopped answering and was given up."""
        ...

    def request(
        self,
        op: str,
        fields: dict[str, Json] | None = None,
        payload: bytes | memoryview = b"",
        *,
        within_s: float | None = None,
    ) -> dict[str, Json]:
        """One operation of the agent, answered within `within_s` seconds where that is less than what it may take.

        Raises `GuestGoneError` when it is gone, `GuestRefusedError` when it refuses, and `ProtocolError` for an answer that no
        agent gives.
        """
        ...

    def fetch(self, name: str, *, limit: int = MOST_ITEM) -> bytes:
        """A whole item of the agent's store. Raises `ProtocolError` for one of more than `limit` bytes."""
        ...

    def pull(self, cursor: int, *, within_s: float | None = None) -> list[dict[str, Json]]:
        """Events from `cursor` on, none left out; waits a fraction of a second for the first."""
        ...

    def close(self) -> None:
        """Hang up; the guest stays."""
        ...


class GuestChannel:
    """One conversation with an agent; requests are answered one after the other, each of them once.

    With `patience_s`, a connection that breaks is made again, and the request in flight is repeated under its own number:
    an agent that carried it out already gives the answer it gave. A guest that cannot be reached for that long is gone, and
    so is one of which `lost` says, while it cannot be reached, that there is nothing to wait for.
    """

    def __init__(
        self,
        address: str,
        *,
        allocation_id: str,
        timeout_s: float = _TIMEOUT_S,
        patience_s: float = 0.0,
        lost: Callable[[], bool] = lambda: False,
        allowance: Allowance | None = None,
    ) -> None:
        self._allowance = allowance or Allowance()
        self._allocation_id = allocation_id
        self._address = address
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        self._lost = lost
        self._given_up = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._session = secrets.token_hex(8)
        self._number = 0
        self._socket: socket.socket | None = None
        try:
            self._socket = self._connect(time.monotonic() + timeout_s)
        except OSError as error:
            if not patience_s:
                raise self._gone(error) from None

    @property
    def gone(self) -> bool:
        """See `Channel.gone`."""
        return self._given_up

    def request(
        self,
        op: str,
        fields: dict[str, Json] | None = None,
        payload: bytes | memoryview = b"",
        *,
        within_s: float | None = None,
    ) -> dict[str, Json]:
        """See `Channel.request`."""
        return self._exchange(op, fields or {}, payload, within_s=within_s)[0]

    def fetch(self, name: str, *, limit: int = MOST_ITEM) -> bytes:
        """See `Channel.fetch`."""
        until = time.monotonic() + self._timeout_s + self._patience_s + limit / _SLOWEST
        data, announced = bytearray(), None
        while announced is None or len(data) < announced:
            fields: dict[str, Json] = {"name": name, "offset": len(data)}
            reply, piece = self._exchange("get", fields, b"", within_s=until - time.monotonic())
            total = cast("int", reply["total"])
            announced = total if announced is None else announced
            expected = min(frames.CHUNK, announced - len(data))
            if announced > limit or total != announced or len(piece) != expected:
                raise self._wrong(f"get: expected {expected} of {announced} bytes (at most {limit}), saw {len(piece)} of {total}")
            data += piece
        return bytes(data)

    def pull(self, cursor: int, *, within_s: float | None = None) -> list[dict[str, Json]]:
        """See `Channel.pull`."""
        reply = self.request("pull", {"cursor": cursor, "wait_ms": _PULL_WAIT_MS}, within_s=within_s)
        try:
            events = check_events(reply, cursor)
            self._allowance.take(0, events=len(events))
        except ProtocolError as error:
            raise self._wrong(error) from None
        return events

    def close(self) -> None:
        """See `Channel.close`."""
        self._closed.set()
        connection = self._socket
        if connection is not None:
            connection.close()

    def _exchange(
        self, op: str, fields: dict[str, Json], payload: bytes | memoryview, *, within_s: float | None = None
    ) -> tuple[dict[str, Json], bytearray]:
        with self._lock:
            self._number += 1
            numbered: dict[str, Json] = {"op": op, "session": self._session, "number": self._number, **fields}
            try:
                reply, piece = self._patiently(numbered, payload, within_s)
                check_reply(op, reply, payload=len(piece))
            except ProtocolError as error:
                # What is left of its words is not read.
                self._hang_up()
                raise self._wrong(error) from None
        if "error" in reply:
            detail = printable(reply["detail"], limit=DETAIL)
            raise GuestRefusedError(f"the guest refused {op}: {reply['error']}: {detail}", allocation_id=self._allocation_id)
        return reply, piece

    def _patiently(
        self, message: dict[str, Json], payload: bytes | memoryview, within_s: float | None
    ) -> tuple[dict[str, Json], bytearray]:
        began = time.monotonic()
        until = began + self._patience_s
        last = None if within_s is None else began + within_s
        ask_at = began + _ASK_EVERY_S
        while True:
            try:
                return self._once(message, payload, last)
            except OSError as error:
                self._hang_up()
                lost, now = False, time.monotonic()
                over = now >= until or (last is not None and now >= last)
                if not over and now >= ask_at:
                    lost = self._lost()
                    ask_at = time.monotonic() + _ASK_EVERY_S
                if lost or over or self._closed.wait(_AGAIN_S):
                    # Another agent may answer at this address later: it would not be the one that was talked to.
                    self._patience_s = 0.0
                    self._given_up = True
                    self._closed.set()
                    raise self._gone(error) from None

    def _once(
        self, message: dict[str, Json], payload: bytes | memoryview, last: float | None
    ) -> tuple[dict[str, Json], bytearray]:
        carried = len(payload) + (frames.CHUNK if message["op"] == "get" else 0)
        deadline = time.monotonic() + self._timeout_s + carried / _SLOWEST
        if last is not None:
            deadline = min(deadline, last)
        if self._socket is None:
            if self._closed.is_set():
                raise ConnectionError("hung up")
            self._socket = self._connect(deadline)
        connection = self._socket
        frames.send(connection, message, payload, deadline=deadline)
        try:
            received = frames.receive(
                connection if message["op"] == "get" else _CountedSocket(connection, self._allowance), deadline=deadline
            )
        except FrameCutError as error:
            raise ConnectionError(str(error)) from None
        if received is None:
            raise ConnectionError("connection closed")
        return received

    def _hang_up(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        # Who listens and does not accept keeps others waiting.
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            connection.connect(self._address)
        except OSError:
            connection.close()
            raise
        return connection

    def _wrong(self, what: object) -> ProtocolError:
        """An answer no agent gives: this guest is not listened to any more."""
        return ProtocolError(f"guest of allocation {self._allocation_id}: {what}", allocation_id=self._allocation_id)

    def _gone(self, why: object) -> GuestGoneError:
        return GuestGoneError(f"guest of allocation {self._allocation_id} is gone ({why})", allocation_id=self._allocation_id)


class _CountedSocket:
    """A socket that is read on somebody's allowance."""

    def __init__(self, connection: socket.socket, allowance: Allowance) -> None:
        self._connection = connection
        self._allowance = allowance

    def recv_into(self, view: memoryview, /) -> int:
        count = self._connection.recv_into(view)
        self._allowance.take(count)
        return count

    def settimeout(self, value: float | None, /) -> None:
        self._connection.settimeout(value)


def put(channel: Channel, name: str, data: bytes | memoryview) -> None:
    """Hold `data` in the guest's memory under `name`."""
    until = _until(len(data))
    for offset, piece in frames.pieces(data):
        fields: dict[str, Json] = {"name": name, "offset": offset, "total": len(data)}
        channel.request("put", fields, piece, within_s=until - time.monotonic())


def lay(channel: Channel, path: str, data: bytes) -> None:
    """Write `data` below the guest's model directory."""
    until = _until(len(data))
    for offset, piece in frames.pieces(data):
        channel.request("lay", {"path": path, "offset": offset}, piece, within_s=until - time.monotonic())


def _until(size: int) -> float:
    """When something of `size` bytes has to be over there, whatever happened to the connection on the way."""
    return time.monotonic() + _TIMEOUT_S + PATIENCE_S + size / _SLOWEST


def follow(
    channel: Channel, cursor: int, *, within_s: Callable[[], float | None] = lambda: None
) -> Iterator[list[dict[str, Json]]]:
    """Events from `cursor` on, batch by batch, without end; an empty batch says that time went by.

    `within_s` says before each how long the guest may take for it.
    """
    while True:
        events = channel.pull(cursor, within_s=within_s())
        if events:
            cursor = cast("int", events[-1]["seq"]) + 1
        yield events
