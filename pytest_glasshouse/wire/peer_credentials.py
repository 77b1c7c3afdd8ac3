"""A socket on which every byte must come from one process, by the kernel's peer credentials.

A socketpair alone is not enough: a process of the same user that duplicates the leg's end could send messages as the leg,
and have the data key sealed to its own keys. Bytes of another sender are refused before they are parsed.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable

#: `struct ucred`: process, user, group.
_CREDENTIALS = struct.Struct("iII")
_MOST_DESCRIPTORS = 8
_ANCILLARY_BYTES = socket.CMSG_SPACE(_CREDENTIALS.size) + socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)


class PeerCredentialSocket:
    """One end of a socketpair: the agent's to a leg, or a rank's to another. Must be made before the other end is passed on.

    Set `pid` once the sender is known. Reading raises `RefusedError("sender")` for bytes of any other process.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._connection = connection
        self.pid = 0

    def recv_into(self, view: memoryview) -> int:
        """As a socket's. Unexpected descriptors are closed."""
        count, _ = self._received(view)
        return count

    def descriptors(self, count: int) -> list[int]:
        """Receive `count` descriptors, sent with one byte. Raises `ProtocolError` for another number of them."""
        byte = bytearray(1)
        _, taken = self._received(memoryview(byte), keep=True)
        if len(taken) != count:
            _close(taken)
            raise ProtocolError(f"expected {count} descriptors; saw {len(taken)}")
        return taken

    def send_descriptors(self, descriptors: list[int]) -> None:
        """Send descriptors with one byte."""
        socket.send_fds(self._connection, [b"\0"], descriptors)

    def sendall(self, data: bytes | memoryview) -> None:
        """As a socket's."""
        self._connection.sendall(data)

    def settimeout(self, value: float | None) -> None:
        """As a socket's."""
        self._connection.settimeout(value)

    def close(self) -> None:
        """As a socket's."""
        self._connection.close()

    def _received(self, view: memoryview, *, keep: bool = False) -> tuple[int, list[int]]:
        count, ancillary, _, _ = self._connection.recvmsg_into([view], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        senders, taken = set(), array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                senders.add(_CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0])
            elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                taken.frombytes(data[: len(data) - len(data) % taken.itemsize])
        foreign = bool(count) and senders != {self.pid}
        if foreign or not keep:
            _close(taken)
        if foreign:
            raise RefusedError("sender", f"expected process {self.pid}; saw {sorted(senders)}")
        return count, list(taken)


def is_child(pid: int, parent: int) -> bool:
    """Whether `pid` is a child of `parent`, which still lives."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[1]) == parent


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def no_process_left(group: int) -> bool:
    """Whether every process of a group is gone."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False
