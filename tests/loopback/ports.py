"""Ports of 127.0.0.1 for programs that tests start: a port is named before its program listens, and nobody takes it meanwhile.

They lie below those that the system gives to connections, and to listeners that name none. A lock on a file, one byte for each
port, tells the other processes of the same user's tests; it goes when the process that holds it ends.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from pathlib import Path

_FIRST = 10_000
_lock = threading.Lock()
_held: set[int] = set()
_files: list[int] = []


def reserve_port() -> int:
    """A free port, promised to nobody else until this process ends."""
    return reserve_ports(1)[0]


def reserve_ports(count: int) -> list[int]:
    """`count` such ports in a row."""
    with _lock:
        ports = _range()
        for _ in range(1000):
            first = random.choice(ports[: -count + 1] if count > 1 else ports)
            if all(_reserved(port) for port in range(first, first + count)):
                return list(range(first, first + count))
    raise AssertionError(f"expected {count} free ports in a row among {ports}; found none")


def _range() -> range:
    """Where the system gives out nearly all ports itself, the lock and a look whether one is free have to do."""
    drawn_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return range(_FIRST, drawn_from if drawn_from >= 2 * _FIRST else 60_000)


def _reserved(port: int) -> bool:
    """Whether it is this process's from now on."""
    if not _files:
        path = Path(tempfile.gettempdir()) / f"glasshouse-test-ports-{os.getuid()}"
        _files.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    if port in _held:
        return False
    try:
        fcntl.lockf(_files[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    _held.add(port)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
