"""One message between two processes: a canonical JSON object and, beside it, raw bytes.

    u32 big endian   length of the JSON
    u32 big endian   length of the payload
    JSON             RFC 8785 canonical form; anything else is refused, so a message has one byte form
    payload          bytes that would only be inflated by JSON (a package, a model file, an adapter)

Host and agent speak it over the agent's unix socket, agent and leg over their socketpair. What the
messages mean is not known here.
"""

from __future__ import annotations

import struct
import time
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.errors import FrameCutError, IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import canonical, parse_strict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_glasshouse.wire.canonical import Json

MAX_JSON = 4 * 1024 * 1024
MAX_PAYLOAD = 8 * 1024 * 1024
#: How much of a large thing travels in one frame.
CHUNK = 4 * 1024 * 1024

_HEAD = struct.Struct(">II")


class Sending(Protocol):
    """What of a socket `send` needs."""

    def sendall(self, data: bytes | memoryview, /) -> None: ...
    def settimeout(self, value: float | None, /) -> None: ...


class Receiving(Protocol):
    """What of a socket `receive` needs."""

    def recv_into(self, view: memoryview, /) -> int: ...
    def settimeout(self, value: float | None, /) -> None: ...


def send(
    connection: Sending, message: Mapping[str, object], payload: bytes | memoryview = b"", *, deadline: float | None = None
) -> None:
    """Send one frame, all of it before `deadline` (`time.monotonic`): a peer that does not read delays the sender no longer.

    Raises `ProtocolError` when it is too large, `OSError` when the peer is gone, `TimeoutError` when it was too slow.
    """
    text = canonical(dict(message))
    if len(text) > MAX_JSON or len(payload) > MAX_PAYLOAD:
        raise ProtocolError(f"frame too large: {len(text)} bytes of JSON, {len(payload)} of payload")
    # A socket's timeout is the whole call's where it sends.
    _limit(connection, deadline)
    connection.sendall(_HEAD.pack(len(text), len(payload)) + text)
    if len(payload):
        _limit(connection, deadline)
        connection.sendall(payload)


def receive(
    connection: Receiving, *, deadline: float | None = None, rest_s: float | None = None
) -> tuple[dict[str, Json], bytearray] | None:
    """Receive one frame; None when the peer closed between frames.

    All of it is here before `deadline` (`time.monotonic`), however little comes at a time. With `rest_s` in its place the
    frame may begin whenever it likes, and takes no longer than that many seconds then. Raises `ProtocolError` when the bytes
    are not a frame or end inside one, and `TimeoutError`.
    """
    if rest_s is not None:
        connection.settimeout(None)
    first = _exactly(connection, 1, deadline, may_end=True)
    if first is None:
        return None
    if rest_s is not None:
        deadline = time.monotonic() + rest_s
    rest = _exactly(connection, _HEAD.size - 1, deadline)
    text_length, payload_length = _HEAD.unpack(first + (rest or b""))
    if text_length > MAX_JSON or payload_length > MAX_PAYLOAD:
        raise ProtocolError(f"frame announces {text_length} + {payload_length} bytes; at most {MAX_JSON} + {MAX_PAYLOAD}")
    text = _exactly(connection, text_length, deadline)
    payload = _exactly(connection, payload_length, deadline)
    try:
        message = parse_strict(bytes(text or b""), limit=MAX_JSON)
    except IntegrityError as error:
        raise ProtocolError(f"frame is not strict JSON: {error.reason}") from None
    if not isinstance(message, dict) or canonical(message) != bytes(text or b""):
        raise ProtocolError("frame is not a canonical JSON object")
    return message, payload or bytearray()


def pieces(data: bytes | memoryview) -> Iterator[tuple[int, memoryview]]:
    """Cut `data` into (offset, piece) of at most `CHUNK` bytes; one empty piece for empty data."""
    view = memoryview(data)
    if not view:
        yield 0, view
    for offset in range(0, len(view), CHUNK):
        yield offset, view[offset : offset + CHUNK]


def _limit(connection: Sending | Receiving, deadline: float | None) -> None:
    if deadline is None:
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(left)


def _exactly(connection: Receiving, length: int, deadline: float | None, *, may_end: bool = False) -> bytearray | None:
    buffer = bytearray(length)
    view = memoryview(buffer)
    filled = 0
    while filled < length:
        _limit(connection, deadline)
        count = connection.recv_into(view[filled:])
        if count == 0:
            if may_end and filled == 0:
                return None
            raise FrameCutError(f"peer closed inside a frame, after {filled} of {length} bytes")
        filled += count
    return buffer
