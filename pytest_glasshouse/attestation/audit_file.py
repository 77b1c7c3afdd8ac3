"""The audit log as rotated files of bounded size.

Knows paths, sizes and digests. Refuses to lose lines in silence: each file begins with the digest of its predecessor and, when
rotation removed the oldest file, with that file's size and digest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from pytest_glasshouse.attestation.audit import AuditLog
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.canonical import Json

#: `FILE`, and `FILE.1` (the newest rotated file) to `FILE.7`.
FILES = 8
LIMIT_MIB = 128


class AuditFile(AuditLog):
    """JSON lines in `path`, which with the rotated files takes at most `limit` bytes; 0 means that another tool rotates it.

    A file that was moved by another server or tool is created again. The caller must call `close`. Raises
    `ConfigurationError` for a path that cannot be written to or rotated.
    """

    def __init__(self, path: Path, *, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limit = limit
        self._removed: dict[str, Json] = {}
        try:
            super().__init__(self._open(), clock=clock)
        except OSError as error:
            raise ConfigurationError(f"--audit {path}: cannot be written ({error.strerror})") from None
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._rotates = limit > 0 and self._regular
        if self._regular:
            self._path = Path(os.path.realpath(path))  # the target is rotated, not the link
        if self._rotates and not os.access(self._path.parent, os.W_OK | os.X_OK):
            self.close()
            raise ConfigurationError(
                f"--audit {path}: expected a directory that this user may write to, where a full log makes way for the next; "
                "choose another, or --audit-mib 0 where something else rotates it"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _open(self) -> int:
        # O_NONBLOCK: a FIFO without a reader is an error, not a wait.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
        os.set_blocking(fd, True)
        return fd

    def _append(self, data: bytes) -> None:
        if self._regular and self._was_moved():
            self._reopen()
        if self._rotates:
            # Other processes that append here rotate too: the lock admits one, and the next sees the file moved.
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            size = os.fstat(self._fd).st_size
            if size + len(data) > self._limit // FILES and size and not self._was_moved():
                self._rotate()
            if self._was_moved():
                self._reopen()
            if os.fstat(self._fd).st_size == 0:
                data = self._continuation() + data
        try:
            super()._append(data)
        finally:
            if self._rotates:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._removed = {}

    def _was_moved(self) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _reopen(self) -> None:
        fd = self._open()
        os.close(self._fd)  # this releases the lock
        self._fd, self._torn = fd, False
        if self._rotates:
            fcntl.flock(fd, fcntl.LOCK_EX)

    def _rotated_path(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _rotate(self) -> None:
        oldest = self._rotated_path(FILES - 1)
        if oldest.exists():
            self._removed = {"gone_bytes": oldest.stat().st_size, "gone_sha256": _digest(oldest)}
        for number in range(FILES - 2, 0, -1):
            if self._rotated_path(number).exists():
                self._rotated_path(number).replace(self._rotated_path(number + 1))
        self._path.replace(self._rotated_path(1))

    def _continuation(self) -> bytes:
        before = self._rotated_path(1)
        if not before.exists():
            return b""
        fields: dict[str, Json] = {"event": "audit", "decision": "continued", "before_sha256": _digest(before), **self._removed}
        return self._line(fields)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
