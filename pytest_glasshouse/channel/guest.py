"""How the host talks to a guest: one unix socket, whoever stands behind it.

A remote guest is reached through the same socket forwarded by OpenSSH; this module cannot tell, and need not.
"""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Protocol, cast

from pytest_glasshouse.errors import GuestGoneError, ProtocolError
from pytest_glasshouse.wire import frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.wire.canonical import Json

_PULL_WAIT_MS = 250
#: An answer that takes longer than this is no answer: every operation of the agent is quick but `pull`.
_TIMEOUT_S = 30.0


class Channel(Protocol):
    """The operations the legs need; mock faults stand in front of a real one with the same shape."""

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
    """One connection to an agent; requests are answered one after the other."""

    def __init__(self, address: str, *, allocation_id: str, timeout_s: float = _TIMEOUT_S) -> None:
        self._allocation_id = allocation_id
        self._lock = threading.Lock()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise self._gone(error) from None

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
        self._socket.close()

    def _exchange(self, op: str, fields: dict[str, Json], payload: bytes | memoryview) -> tuple[dict[str, Json], bytearray]:
        with self._lock:
            try:
                frames.send(self._socket, {"op": op, **fields}, payload)
                received = frames.receive(self._socket)
            except OSError as error:
                raise self._gone(error) from None
            except ProtocolError as error:
                raise self._gone(error) from None
        if received is None:
            raise self._gone("connection closed")
        reply, piece = received
        if "error" in reply:
            raise ProtocolError(f"the guest refused {op}: {reply['error']}: {reply['detail']}", allocation_id=self._allocation_id)
        return reply, piece

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
