"""Material of the legs in memory files (memfd): it has no path and is gone with the process.

Holds sealed packages, a raw leg's parts and exported adapters. The size is announced with the first piece and enforced.
"""

from __future__ import annotations

import fcntl
import os
import threading
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.base_files import SEALS

if TYPE_CHECKING:
    from pathlib import Path

_PIECE = 16 << 20
MAX_ITEM = 64 * 1024 * 1024 * 1024


class MemoryFiles:
    """Named memory files, each written piece by piece, in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, tuple[int, int, int]] = {}

    def write(self, name: str, *, offset: int, total: int, piece: bytes | bytearray) -> None:
        """Append one piece. Raises `ProtocolError` when pieces are out of order or exceed the announced size."""
        with self._lock:
            if offset == 0:
                self._close(name)
                fd = os.memfd_create(f"glasshouse-{name}", os.MFD_CLOEXEC)
                self._files[name] = (fd, 0, total)
                if 0 <= total <= MAX_ITEM:
                    os.ftruncate(fd, total)  # takes no memory; a leg may map all of it before all of it is there
            if name not in self._files:
                raise ProtocolError(f"item {name!r}: expected the first piece at offset 0; saw {offset}")
            fd, have, announced = self._files[name]
            if offset != have or total != announced or not 0 <= total <= MAX_ITEM or have + len(piece) > announced:
                raise ProtocolError(f"item {name!r}: expected offset {have} of {announced}; saw {offset} of {total}")
            view = memoryview(piece)
            while view:
                view = view[os.write(fd, view) :]
            self._files[name] = (fd, have + len(piece), announced)

    def descriptor(self, name: str) -> int:
        """A descriptor of a complete item, owned by the caller."""
        with self._lock:
            return os.dup(self._complete(name))

    def growing(self, name: str) -> int:
        """A descriptor of an item that may not be complete yet, owned by the caller."""
        with self._lock:
            if name not in self._files:
                raise ProtocolError(f"item {name!r}: expected an item that was put; saw no such name")
            return os.dup(self._files[name][0])

    def read(self, name: str, *, offset: int, size: int) -> tuple[bytes, int]:
        """Up to `size` bytes of a complete item from `offset`, and the item's whole size."""
        with self._lock:
            fd = self._complete(name)
            return os.pread(fd, size, offset), os.fstat(fd).st_size

    def drop(self, name: str) -> None:
        """Close one item; its memory is freed when no leg maps it."""
        with self._lock:
            self._close(name)

    def _complete(self, name: str) -> int:
        if name not in self._files:
            raise ProtocolError(f"item {name!r}: expected an item that was put, or exported; saw no such name")
        fd, have, announced = self._files[name]
        if have != announced:
            raise ProtocolError(f"item {name!r}: expected {announced} bytes; saw {have}")
        return fd

    def _close(self, name: str) -> None:
        if name in self._files:
            os.close(self._files.pop(name)[0])


def sealed_file(name: str, path: Path) -> int:
    """A memory file with a copy of the file at `path`, sealed like `sealed_copy`'s. Raises `OSError`."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with path.open("rb", buffering=0) as source:
            while os.sendfile(fd, source.fileno(), None, _PIECE):
                pass
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def sealed_copy(name: str, data: bytes) -> int:
    """A memory file that holds `data` and can no longer be written, grown or shrunk."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd
