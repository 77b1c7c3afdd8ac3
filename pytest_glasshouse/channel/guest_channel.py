"""Requests of the host to a guest's agent over a unix socket; every reply is checked against `wire.guest_messages`.

A remote guest's socket is forwarded here by OpenSSH, so local and remote guests are the same to this module.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.channel.allowance import Allowance
from pytest_glasshouse.errors import FrameCutError, GuestGoneError, GuestRefusedError, ProtocolError
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.guest_messages import DETAIL, check_events, check_reply
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pytest_glasshouse.wire.canonical import Json

_PULL_WAIT_MS = 250
#: Deadline for a reply; every operation of the agent but `pull` is quick.
_TIMEOUT_S = 30.0
#: The slowest accepted transfer, in bytes per second: payloads extend the deadline at this rate.
_SLOWEST = 64 * 1024
#: The default limit of a fetched item: the adapter of a 7B model with every linear layer at rank 64 has 640 MB.
MOST_ITEM = 2 << 30
#: How long a request to a remote guest is repeated over new connections before the guest counts as gone.
RECONNECT_S = 120.0
#: Pause between two connection attempts.
_AGAIN_S = 0.2
#: While a guest cannot be reached, `lost` is called once per interval.
_ASK_EVERY_S = 3.0


class Channel(Protocol):
    """The operations that legs need. `GuestChannel` has them, and the mock provider's `FaultyChannel`, which wraps one."""

    @property
    def gone(self) -> bool:
        """Whether the guest stopped answering and counts as gone."""
        ...

    def request(
        self,
        op: str,
        fields: Mapping[str, object] | None = None,
        payload: bytes | memoryview = b"",
        *,
        within_s: float | None = None,
    ) -> dict[str, Json]:
        """The agent's reply to one operation, within the default deadline or `within_s` seconds, whichever is shorter.

        Raises `GuestGoneError` when the guest is gone, `GuestRefusedError` for an error reply, and `ProtocolError` for a
        malformed one.
        """
        ...

    def fetch(self, name: str, *, limit: int = MOST_ITEM) -> bytes:
        """A whole item that the agent holds. Raises `ProtocolError` for one of more than `limit` bytes."""
        ...

    def pull(self, cursor: int, *, within_s: float | None = None) -> list[dict[str, Json]]:
        """Events from `cursor` on, without a gap; waits a fraction of a second for the first."""
        ...

    def close(self) -> None:
        """Disconnect; the guest runs on."""
        ...


class GuestChannel:
    """One session with an agent; one request at a time, each carried out once.

    With `reconnect_s`, a broken connection is made again and the request in flight repeated under its number, so that the
    agent does not carry it out twice. A guest that cannot be reached for that long is gone; so is an unreachable one when
    `lost` returns true.
    """

    def __init__(
        self,
        address: str,
        *,
        allocation_id: str,
        timeout_s: float = _TIMEOUT_S,
        reconnect_s: float = 0.0,
        lost: Callable[[], bool] = lambda: False,
        allowance: Allowance | None = None,
    ) -> None:
        self._allowance = allowance or Allowance()
        self._allocation_id = allocation_id
        self._address = address
        self._timeout_s = timeout_s
        self._reconnect_s = reconnect_s
        self._lost = lost
        self._is_gone = False
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._session = secrets.token_hex(8)
        self._number = 0
        self._socket: socket.socket | None = None
        try:
            self._socket = self._connect(time.monotonic() + timeout_s)
        except OSError as error:
            if not reconnect_s:
                raise self._gone_error(error) from None

    @property
    def gone(self) -> bool:
        """See `Channel.gone`."""
        return self._is_gone

    def request(
        self,
        op: str,
        fields: Mapping[str, object] | None = None,
        payload: bytes | memoryview = b"",
        *,
        within_s: float | None = None,
    ) -> dict[str, Json]:
        """See `Channel.request`."""
        return self._exchange(op, fields or {}, payload, within_s=within_s)[0]

    def fetch(self, name: str, *, limit: int = MOST_ITEM) -> bytes:
        """See `Channel.fetch`."""
        until = time.monotonic() + self._timeout_s + self._reconnect_s + limit / _SLOWEST
        data, announced = bytearray(), None
        while announced is None or len(data) < announced:
            fields = {"name": name, "offset": len(data)}
            reply, piece = self._exchange("get", fields, b"", within_s=until - time.monotonic())
            total = check_typed(reply["total"], int, "get.total")
            announced = total if announced is None else announced
            expected = min(frames.CHUNK, announced - len(data))
            if announced > limit or total != announced or len(piece) != expected:
                raise self._malformed(
                    f"get: expected {expected} of {announced} bytes (at most {limit}), saw {len(piece)} of {total}"
                )
            data += piece
        return bytes(data)

    def pull(self, cursor: int, *, within_s: float | None = None) -> list[dict[str, Json]]:
        """See `Channel.pull`."""
        reply = self.request("pull", {"cursor": cursor, "wait_ms": _PULL_WAIT_MS}, within_s=within_s)
        try:
            events = check_events(reply, cursor)
            self._allowance.take(0, events=len(events))
        except ProtocolError as error:
            raise self._malformed(error) from None
        return events

    def close(self) -> None:
        """See `Channel.close`."""
        self._closed.set()
        connection = self._socket
        if connection is not None:
            connection.close()

    def _exchange(
        self, op: str, fields: Mapping[str, object], payload: bytes | memoryview, *, within_s: float | None = None
    ) -> tuple[dict[str, Json], bytearray]:
        with self._lock:
            self._number += 1
            numbered = {"op": op, "session": self._session, "number": self._number, **fields}
            try:
                reply, piece = self._exchange_with_reconnect(numbered, payload, within_s)
                check_reply(op, reply, payload=len(piece))
            except ProtocolError as error:
                # The rest of its bytes is not read.
                self._disconnect()
                raise self._malformed(error) from None
        if "error" in reply:
            detail = printable(reply["detail"], limit=DETAIL)
            raise GuestRefusedError(f"the guest refused {op}: {reply['error']}: {detail}", allocation_id=self._allocation_id)
        return reply, piece

    def _exchange_with_reconnect(
        self, message: Mapping[str, object], payload: bytes | memoryview, within_s: float | None
    ) -> tuple[dict[str, Json], bytearray]:
        began = time.monotonic()
        until = began + self._reconnect_s
        latest = None if within_s is None else began + within_s
        ask_at = began + _ASK_EVERY_S
        while True:
            try:
                return self._exchange_once(message, payload, latest)
            except OSError as error:
                self._disconnect()
                lost, now = False, time.monotonic()
                over = now >= until or (latest is not None and now >= latest)
                if not over and now >= ask_at:
                    lost = self._lost()
                    ask_at = time.monotonic() + _ASK_EVERY_S
                if lost or over or self._closed.wait(_AGAIN_S):
                    # Another agent may answer at this address later: this session must not continue with it.
                    self._reconnect_s = 0.0
                    self._is_gone = True
                    self._closed.set()
                    raise self._gone_error(error) from None

    def _exchange_once(
        self, message: Mapping[str, object], payload: bytes | memoryview, latest: float | None
    ) -> tuple[dict[str, Json], bytearray]:
        transferred = len(payload) + (frames.CHUNK if message["op"] == "get" else 0)
        deadline = time.monotonic() + self._timeout_s + transferred / _SLOWEST
        if latest is not None:
            deadline = min(deadline, latest)
        if self._socket is None:
            if self._closed.is_set():
                raise ConnectionError("channel closed")
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

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        # A listener that does not accept would block for ever.
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            connection.connect(self._address)
        except OSError:
            connection.close()
            raise
        return connection

    def _malformed(self, error: object) -> ProtocolError:
        return ProtocolError(f"guest of allocation {self._allocation_id}: {error}", allocation_id=self._allocation_id)

    def _gone_error(self, reason: object) -> GuestGoneError:
        return GuestGoneError(f"guest of allocation {self._allocation_id} is gone ({reason})", allocation_id=self._allocation_id)


class _CountedSocket:
    """A socket whose received bytes count against an allowance."""

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
    until = _deadline(len(data))
    for offset, piece in frames.pieces(data):
        fields = {"name": name, "offset": offset, "total": len(data)}
        channel.request("put", fields, piece, within_s=until - time.monotonic())


def put_pieces(channel: Channel, name: str, total: int, pieces: Iterable[bytes | memoryview]) -> Iterator[int]:
    """Hold `total` bytes in the guest's memory under `name`, as they come; yields how many are there.

    A piece is not kept: what makes them may make each in the same memory.
    """
    until, offset = _deadline(total), 0
    for piece in pieces:
        fields = {"name": name, "offset": offset, "total": total}
        channel.request("put", fields, piece, within_s=until - time.monotonic())
        offset += len(piece)
        yield offset


def put_model_piece(channel: Channel, model: str, name: str, offset: int, piece: bytes) -> None:
    """Append the piece that the guest wants to a file of a base model."""
    until = _deadline(len(piece))
    channel.request("lay", {"model": model, "name": name, "offset": offset}, piece, within_s=until - time.monotonic())


def _deadline(size: int) -> float:
    """When a transfer of `size` bytes must be complete, reconnections included."""
    return time.monotonic() + _TIMEOUT_S + RECONNECT_S + size / _SLOWEST


def follow(
    channel: Channel, cursor: int, *, within_s: Callable[[], float | None] = lambda: None
) -> Iterator[list[dict[str, Json]]]:
    """Events from `cursor` on, batch by batch, without end; a batch is empty when none came in time.

    `within_s` returns the deadline of the next batch, in seconds.
    """
    while True:
        events = channel.pull(cursor, within_s=within_s())
        if events:
            cursor = check_typed(events[-1]["seq"], int, "seq") + 1
        yield events
