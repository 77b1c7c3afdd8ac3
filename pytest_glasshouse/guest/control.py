"""The leg's end of its socketpair: what it tells its agent, and the few answers it waits for.

The agent holds the other end and knows which child it forked, so what arrives here needs no name on it.
"""

from __future__ import annotations

import array
import socket
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire import frames

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json


class Control:
    """Messages `{type, body}` both ways."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def tell(self, kind: str, body: dict[str, Json], payload: bytes | memoryview = b"") -> None:
        """Send one message to the agent."""
        frames.send(self._connection, {"type": kind, "body": body}, payload)

    def hand(self, kind: str, body: dict[str, Json], descriptors: list[int]) -> None:
        """Send one message and, behind it, descriptors that the agent takes with `Witnessed.descriptors`."""
        self.tell(kind, body)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        self._connection.sendmsg([b"\0"], [rights])

    def tell_large(self, kind: str, name: str, data: bytes | memoryview) -> None:
        """Send `data` in pieces under `name`; the agent keeps it in memory."""
        for offset, piece in frames.pieces(data):
            self.tell(kind, {"name": name, "offset": offset, "total": len(data)}, piece)

    def hear(self, *kinds: str) -> tuple[str, dict[str, Json]]:
        """Wait for one message of one of `kinds`. Raises `ProtocolError` when the agent is gone or says something else."""
        received = frames.receive(self._connection)
        if received is None:
            raise ProtocolError("the agent closed the leg's control socket")
        message, _ = received
        kind, body = message.get("type"), message.get("body")
        if kind not in kinds or not isinstance(kind, str) or not isinstance(body, dict):
            raise ProtocolError(f"expected {' or '.join(kinds)} from the agent; saw {kind!r}")
        return kind, body
