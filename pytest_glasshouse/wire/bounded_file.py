"""Reading a file that somebody else may have put there: a regular file, of at most so many bytes, or one sentence."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from pytest_glasshouse.errors import IntegrityError


def read_regular(path: Path, *, limit: int) -> bytes:
    """The bytes of `path`. A link is followed; what it leads to has to be a regular file.

    Raises `IntegrityError` with reason `not-a-file` for a FIFO, device, socket or directory (none of which is waited for)
    and `too-large` for more than `limit` bytes, also where the file grows while it is read; `OSError` as `open` does.
    """
    # O_NONBLOCK: opening a FIFO nobody writes to would wait for ever. It means nothing to a regular file.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise IntegrityError("not-a-file", "expected a regular file")
        data = bytearray()
        while len(data) <= limit and (piece := os.read(descriptor, min(1 << 20, limit + 1 - len(data)))):
            data += piece
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise IntegrityError("too-large", f"more than {limit} bytes")
    return bytes(data)
