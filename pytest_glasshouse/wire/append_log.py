"""Append-only files of lines: one line a call, on disk before the call returns.

A kill or a full disk may leave half a line at the end of such a file. The next append ends it first, so a reader finds one torn
line and every later line whole. What a line holds is known to its writer and its reader only.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.whole_file import sync_directory

if TYPE_CHECKING:
    from pathlib import Path


def append_line(path: Path, line: bytes) -> None:
    """Append `line` and a newline; the file is made with mode 0600 where there is none, its directory is not.

    One write, so that the lines of several processes do not mix. Raises `OSError`, also where `path` is a link and where the
    disk took only a part of the line.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = b"\n" * torn + line + b"\n"
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if size == 0:
        sync_directory(path.parent)
