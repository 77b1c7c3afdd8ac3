"""How the host talks to a guest: one unix socket, whoever stands behind it.

A remote guest is reached through the same socket forwarded by OpenSSH; this module cannot tell, and need not.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from typing import TYPE_CHECKING, Protocol, cast

from pytest_glasshouse.errors import GuestGoneError, ProtocolError
from pytest_glasshouse.wire import frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_glasshouse.wire.canonical import Json

_PULL_WAIT_MS = 250
#: An answer that takes longer than this is no answer: every operation of the agent is quick but `pull`.
_TIMEOUT_S = 30.0
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

    def request(self, op: str, fields: dict[str, Json] | None = None, payload: bytes | memoryview = b"") -> dict[str, Json]:
        """One operation of the agent. Raises `GuestGoneError` when it is gone, `ProtocolError` when it refuses."""
        ...

    def fetch(self, name: str) -> bytes:
        """A whole item of the agent's store."""
        ...

    def pull(self, cursor: int) -> list[dict[str, Json]]:
        """Events from `cursor` on; waits a fraction of a second for the first."""
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
    ) -> None:
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
            self._socket = self._connect()
        except OSError as error:
            if not patience_s:
                raise self._gone(error) from None

    @property
    def gone(self) -> bool:
        """See `Channel.gone`."""
        return self._given_up

    def request(self, op: str, fields: dict[str, Json] | None = None, payload: bytes | memoryview = b"") -> dict[str, Json]:
        """See `Channel.request`."""
        return self._exchange(op, fields or {}, payload)[0]

    def fetch(self, name: str) -> bytes:
        """See `Channel.fetch`."""
        data = bytearray()
        while True:
            reply, piece = self._exchange("get", {"name": name, "offset": len(data)}, b"")
            data += piece
            if len(data) >= cast("int", reply["total"]):
                return bytes(data)
            if not piece:
                raise ProtocolError(f"the guest stopped inside {name!r}", allocation_id=self._allocation_id)

    def pull(self, cursor: int) -> list[dict[str, Json]]:
        """See `Channel.pull`."""
        events = self.request("pull", {"cursor": cursor, "wait_ms": _PULL_WAIT_MS})["events"]
        return cast("list[dict[str, Json]]", events)

    def close(self) -> None:
        """See `Channel.close`."""
        self._closed.set()
        connection = self._socket
        if connection is not None:
            connection.close()

    def _exchange(self, op: str, fields: dict[str, Json], payload: bytes | memoryview) -> tuple[dict[str, Json], bytearray]:
        with self._lock:
            self._number += 1
            numbered: dict[str, Json] = {"op": op, "session": self._session, "number": self._number, **fields}
            reply, piece = self._patiently(numbered, payload)
        if "error" in reply:
            raise ProtocolError(f"the guest refused {op}: {reply['error']}: {reply['detail']}", allocation_id=self._allocation_id)
        return reply, piece

    def _patiently(self, message: dict[str, Json], payload: bytes | memoryview) -> tuple[dict[str, Json], bytearray]:
        until = time.monotonic() + self._patience_s
        ask_at = time.monotonic() + _ASK_EVERY_S
        while True:
            try:
                return self._once(message, payload)
            except OSError as error:
                if self._socket is not None:
                    self._socket.close()
                    self._socket = None
                lost = False
                if until > time.monotonic() >= ask_at:
                    lost = self._lost()
                    ask_at = time.monotonic() + _ASK_EVERY_S
                if lost or time.monotonic() >= until or self._closed.wait(_AGAIN_S):
                    # Another agent may answer at this address later: it would not be the one that was talked to.
                    self._patience_s = 0.0
                    self._given_up = True
                    self._closed.set()
                    raise self._gone(error) from None

    def _once(self, message: dict[str, Json], payload: bytes | memoryview) -> tuple[dict[str, Json], bytearray]:
        if self._socket is None:
            if self._closed.is_set():
                raise ConnectionError("hung up")
            self._socket = self._connect()
        frames.send(self._socket, message, payload)
        try:
            received = frames.receive(self._socket)
        except ProtocolError as error:
            raise ConnectionError(str(error)) from None
        if received is None:
            raise ConnectionError("connection closed")
        return received

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(self._timeout_s)
        try:
            connection.connect(self._address)
        except OSError:
            connection.close()
            raise
        return connection

    def _gone(self, why: object) -> GuestGoneError:
        return GuestGoneError(f"guest of allocation {self._allocation_id} is gone ({why})", allocation_id=self._allocation_id)


def put(channel: Channel, name: str, data: bytes | memoryview) -> None:
    """Hold `data` in the guest's memory under `name`."""
    for offset, piece in frames.pieces(data):
        channel.request("put", {"name": name, "offset": offset, "total": len(data)}, piece)


def lay(channel: Channel, path: str, data: bytes) -> None:
    """Write `data` below the guest's model directory."""
    for offset, piece in frames.pieces(data):
        channel.request("lay", {"path": path, "offset": offset}, piece)


def follow(channel: Channel, cursor: int) -> Iterator[list[dict[str, Json]]]:
    """Events from `cursor` on, batch by batch, without end; an empty batch says that time went by."""
    while True:
        events = channel.pull(cursor)
        if events:
            cursor = cast("int", events[-1]["seq"]) + 1
        yield events
