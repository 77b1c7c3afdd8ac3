"""Sockets between the processes of one user on this machine, without a file in any directory.

Their names lie in Linux's abstract namespace (unix(7)): no path that can be too long, and nothing left behind by a process
that was killed. Such a name has no permissions, so both ends ask the kernel which user is at the other one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_MARK = "@"


class SocketServer:
    """Listens at `address`, which is text that can travel in JSON, and gives each connection to `serve` in a thread of its own.

    Only this user's processes and root's are served; any other connection is closed.
    """

    def __init__(self, name: str, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self.address = f"{_MARK}{name}-{secrets.token_hex(16)}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(_name(self.address))
        self._listener.listen(64)
        threading.Thread(target=self._accept, name=name, daemon=True).start()

    def close(self) -> None:
        """Stop listening. Connections that stand go on."""
        # shutdown wakes the accepting thread; close alone would leave it blocked.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                if _uid(connection) in (0, os.geteuid()):
                    threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
                else:
                    connection.close()


def connect(address: str) -> socket.socket:
    """A connection to the server at `address`. Raises `OSError`, also where that is another user's process."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(_name(address))
        if _uid(connection) not in (0, os.geteuid()):
            raise PermissionError(f"{address} belongs to another user")
    except OSError:
        connection.close()
        raise
    return connection


def _name(address: str) -> bytes:
    return b"\0" + address.removeprefix(_MARK).encode()


def _uid(connection: socket.socket) -> int:
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", credentials)[1])
