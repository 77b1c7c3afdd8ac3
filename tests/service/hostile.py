"""Clients that mean no good: each connects from an address of its own choice, and again when it was cut off.

They press before each request of an honest client and once more while it is under way, so that no request of its goes without,
and what they send in all depends on its requests, not on how fast the machine is.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from pytest_glasshouse.owner.client import AttestationClient
from tests.limits import HANG_S

_HEAD = b"POST /v1/release HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
#: What each kind sends first, and what it then repeats.
KINDS: dict[str, tuple[bytes, bytes]] = {
    "silent": (b"", b""),
    "half a handshake": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"h" * 40, b""),
    "endless request line": (b"GET /", b"a" * 60_000),
    "endless header": (b"GET /v1/keys HTTP/1.1\r\nX-Long: ", b"a" * 60_000),
    "endless headers": (b"GET /v1/keys HTTP/1.1\r\n", b"".join(b"X-%d: %s\r\n" % (n, b"a" * 60_000) for n in range(4))),
    "headers within the limit": (_HEAD + b"X-Fill: " + b"a" * 15_000 + b"\r\n", b""),
    "endless body": (_HEAD + b"Content-Length: 99999999999\r\n\r\n", b"[" * 60_000),
    "a body that never ends": (_HEAD + b"Content-Length: 65536\r\n\r\n" + b"[" * 65_000, b""),
    "chunked": (_HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n"),
    "pipelined junk": (b"", b"\x00\xff junk \r\n\r\n" * 500),
    "pipelined questions": (b"", b"GET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n" * 500),
    "large messages": (
        b"", _HEAD + b"Content-Length: 65018\r\n\r\n" + b'{"evidence":"","log":[' + b'{"":1},' * 9284 + b'{"":12}]}'
    ),
}  # fmt: skip
#: Kinds of request that never end, of which an honest server reads little before it ends the connection.
STREAMS = {"endless request line", "endless header", "endless headers", "endless body", "chunked"}
#: What each connection of such a kind sends at first, unless it is ended: of all that are held at once too much to be kept.
_FLOOD_BYTES = 2 << 20
#: What a connection sends at most each time it presses, if the server takes it.
_PRESS_BYTES = 60_000


class Crowd:
    """`number` connections from `address` at a port of loopback, that nobody's reading slows down: they never read."""

    def __init__(self, port: int, kind: str, *, number: int = 256, address: str = "127.0.0.2") -> None:
        self._port, self._number, self._address = port, number, address
        self._kind = kind
        self._first, self._ever = KINDS[kind]
        self._connections: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._connections = [self._connect() for _ in range(self._number)]
        if self._kind in STREAMS:
            for each in self._connections:
                self._flood(each)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._connections:
            each.close()

    def press(self) -> None:
        """Let each connection send what it repeats, and connect again in place of each that was cut off."""
        for place, connection in enumerate(self._connections):
            if not self._goes_on(connection):
                connection.close()
                self._connections[place] = self._connect()

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT left behind
        connection.bind((self._address, 0))
        connection.settimeout(HANG_S)
        connection.connect(("127.0.0.1", self._port))
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.send(self._first)
        return connection

    def _flood(self, connection: socket.socket) -> None:
        left = _FLOOD_BYTES
        connection.settimeout(HANG_S)
        with contextlib.suppress(ConnectionError):
            while left > 0:
                left -= connection.send(self._ever)
        connection.setblocking(False)

    def _goes_on(self, connection: socket.socket) -> bool:
        left = _PRESS_BYTES if self._ever else 0
        try:
            while left > 0:
                left -= connection.send(self._ever)
        except BlockingIOError:
            pass
        except OSError:
            return False
        try:
            return connection.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


class Pressed(AttestationClient):
    """An honest client; `press` is called before each of its requests, and again while the server answers it."""

    def __init__(self, url: str, press: Callable[[], None], *, authority: Path | None = None) -> None:
        super().__init__(url, timeout_s=HANG_S, authority=authority)
        self._press = press
        self.requests = 0

    def _send(self, *arguments: Any) -> Any:
        self._press()
        self.requests += 1
        with ThreadPoolExecutor(1) as pool:
            meanwhile = pool.submit(self._press)
            answer = super()._send(*arguments)
            meanwhile.result()
        return answer


@contextlib.contextmanager
def crowds(port: int, *, number: int, address: str) -> Iterator[Callable[[], None]]:
    """Some of every kind at once, and how to let all of them press."""
    with contextlib.ExitStack() as stack:
        there = [stack.enter_context(Crowd(port, kind, number=number, address=address)) for kind in KINDS]

        def press() -> None:
            for each in there:
                each.press()

        yield press
