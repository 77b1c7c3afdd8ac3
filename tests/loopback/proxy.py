"""A proxy on loopback: it forwards what it is given whole, opens tunnels, and writes down what it was asked."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from typing import Self


class Proxy:
    """`url` is its address. With `credentials` (user:password) it wants them. `asked` holds the first line of every request."""

    def __init__(self, credentials: str = "") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._wanted = f"basic {base64.b64encode(credentials.encode()).decode()}" if credentials else ""
        self.asked: list[str] = []
        self.heads: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = connection.recv(65536)
                if not piece:
                    return
                head += piece
            text = head.decode("latin-1")
            self.asked.append(text.partition("\r\n")[0])
            self.heads.append(text)
            if self._wanted and f"proxy-authorization: {self._wanted}".lower() not in text.lower():
                connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                return
            method, target, _ = self.asked[-1].split(" ")
            if method == "CONNECT":
                host, _, port = target.rpartition(":")
                with socket.create_connection((host.strip("[]"), int(port))) as there:
                    connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    _copy(connection, there)
                return
            host, _, rest = target.removeprefix("http://").partition("/")
            with socket.create_connection((host.partition(":")[0], int(host.partition(":")[2]))) as there:
                line, _, tail = head.partition(b"\r\n")
                there.sendall(line.replace(target.encode("latin-1"), f"/{rest}".encode("latin-1")) + b"\r\n" + tail)
                _copy(connection, there)


def _copy(one: socket.socket, other: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([one, other], [], [], 10)
        for each in ready:
            data = each.recv(65536)
            if not data:
                return
            (other if each is one else one).sendall(data)
        if not ready:
            return
