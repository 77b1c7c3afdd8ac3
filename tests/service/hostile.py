"""Clients that mean no good: each connects from an address of its own choice, and again as soon as it is cut off."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Self

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


class Crowd:
    """`number` connections from `address` at a port of loopback, that nobody's reading slows down: they never read."""

    def __init__(self, port: int, kind: str, *, number: int = 256, address: str = "127.0.0.2") -> None:
        self._port, self._number, self._address = port, number, address
        self._first, self._ever = KINDS[kind]
        self._ends = threading.Event()
        self._all_there = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.connects = 0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._all_there.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join(60)

    def _connect(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # no TIME_WAIT left behind
        connection.bind((self._address, 0))
        connection.settimeout(20)
        connection.connect(("::1" if family == socket.AF_INET6 else "127.0.0.1", self._port))
        connection.setblocking(False)
        self.connects += 1
        with contextlib.suppress(OSError):
            connection.send(self._first)
        return connection

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
            for _ in range(self._number):
                selector.register(stack.enter_context(self._connect()), selectors.EVENT_READ | selectors.EVENT_WRITE)
            self._all_there.set()
            while not self._ends.is_set():
                for key, _ in selector.select(0.05):
                    connection = key.fileobj
                    assert isinstance(connection, socket.socket)
                    if self._goes_on(connection):
                        continue
                    selector.unregister(connection)
                    connection.close()
                    with contextlib.suppress(OSError):
                        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._ever else 0)
                        selector.register(stack.enter_context(self._connect()), events)
                self._ends.wait(0.01)

    def _goes_on(self, connection: socket.socket) -> bool:
        try:
            if self._ever:
                connection.send(self._ever)
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


@contextlib.contextmanager
def crowds(port: int, *, number: int, address: str) -> Iterator[None]:
    """Some of every kind at once."""
    with contextlib.ExitStack() as stack:
        for kind in KINDS:
            stack.enter_context(Crowd(port, kind, number=number, address=address))
        yield
