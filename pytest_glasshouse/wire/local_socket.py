"""Sockets between processes of one user on this machine that have no place in any directory.

Their names lie in Linux's abstract namespace (unix(7)): no path that can be too long, and nothing left behind by a process
that was killed. Such a name has no permissions, so whoever accepts asks the kernel who connected.
"""

from __future__ import annotations

import os
import secrets
import socket
import struct

_MARK = "@"


def listen(prefix: str) -> tuple[socket.socket, str]:
    """A socket that listens, and its address as text that can travel in JSON."""
    address = f"{_MARK}{prefix}-{secrets.token_hex(16)}"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(_name(address))
    listener.listen(64)
    return listener, address


def accept(listener: socket.socket) -> socket.socket:
    """The next connection by this user, or by root; others are closed. Raises `OSError` once the listener is shut down."""
    while True:
        connection, _ = listener.accept()
        if _uid(connection) in (0, os.geteuid()):
            return connection
        connection.close()


def connect(address: str) -> socket.socket:
    """A connection to who listens at `address`. Raises `OSError`, also where that is another user's process."""
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
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", told)[1])
