"""The ranks of a leg that trains with numpy: their first one adds up the gradients, over sockets at MASTER_ADDR and MASTER_PORT.

torch's process groups, which the product uses, need torch. See `archive.py`.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from pytest_glasshouse.errors import RankLostError

_RANK = struct.Struct(">I")


class DataParallel:
    """See the product's."""

    def __init__(self, rank: int, size: int, connections: list[socket.socket]) -> None:
        self.rank, self.size, self._connections = rank, size, connections
        self.collective_ns = 0

    @classmethod
    def join(cls, rank: int, size: int, *, listener: int | None, device: str) -> DataParallel:
        """Meet the other ranks."""
        del device
        if rank:
            connection = socket.socket()
            # As bytes: a text would have this rank import a codec that the first one does not.
            connection.connect((os.environ["MASTER_ADDR"].encode(), int(os.environ["MASTER_PORT"])))
            connection.sendall(_RANK.pack(rank))
            return cls(rank, size, [connection])
        assert listener is not None
        by_rank: dict[int, socket.socket] = {}
        with socket.socket(fileno=listener) as accepting:
            while len(by_rank) < size - 1:
                connection, _ = accepting.accept()
                by_rank[_RANK.unpack(_exactly(connection, _RANK.size))[0]] = connection
        return cls(rank, size, [by_rank[number] for number in range(1, size)])

    def average(self, gradients: Sequence[Any]) -> None:
        """Replace each by its mean over all ranks."""
        began = time.perf_counter_ns()
        flat = np.concatenate([gradient.ravel() for gradient in gradients])
        try:
            if self.rank:
                self._connections[0].sendall(flat.tobytes())
                flat = np.frombuffer(_exactly(self._connections[0], flat.nbytes), dtype=flat.dtype)
            else:
                for connection in self._connections:
                    flat = flat + np.frombuffer(_exactly(connection, flat.nbytes), dtype=flat.dtype)
                flat = flat / np.float32(self.size)
                for connection in self._connections:
                    connection.sendall(flat.tobytes())
        except OSError as error:
            raise RankLostError(f"a collective did not end: {error}") from None
        self.collective_ns += time.perf_counter_ns() - began
        at = 0
        for gradient in gradients:
            gradient[...] = flat[at : at + gradient.size].reshape(gradient.shape)
            at += gradient.size

    def share_of(self, count: int) -> tuple[int, int]:
        """This rank's share of `count` items."""
        return self.rank * count // self.size, (self.rank + 1) * count // self.size

    def close(self) -> None:
        """Leave."""
        for connection in self._connections:
            connection.close()


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = bytearray()
    while len(found) < count:
        piece = connection.recv(count - len(found))
        if not piece:
            raise RankLostError("a collective did not end: another rank closed its connection")
        found += piece
    return bytes(found)
