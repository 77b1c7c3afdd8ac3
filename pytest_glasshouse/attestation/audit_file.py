"""The audit log as a file that has an end: when it is full it makes way for the next, and the oldest goes.

Knows paths, sizes and digests. Refuses to lose anything in silence: each file begins with the digest of the one before it,
and says which one was taken away.
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

#: `FILE` and `FILE.1`, the newest of those that made way, to `FILE.7`.
FILES = 8
LIMIT_MIB = 128


class AuditFile(AuditLog):
    """JSON lines in `path`, which with its predecessors takes at most `limit` bytes; 0 leaves that to somebody else.

    A file that was moved away meanwhile, by another server or a tool that rotates logs, is made anew. The caller owes
    `close`. Raises `ConfigurationError` for a path that cannot be written to, or not be rotated.
    """

    def __init__(self, path: Path, *, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._limit = limit
        self._gone: dict[str, Json] = {}
        try:
            super().__init__(self._opened(), clock=clock)
        except OSError as error:
            raise ConfigurationError(f"--audit {path}: cannot be written ({error.strerror})") from None
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        self._rotates = limit > 0 and self._regular
        if self._regular:
            self._path = Path(os.path.realpath(path))  # where a link leads to is what makes way, not the link
        if self._rotates and not os.access(self._path.parent, os.W_OK | os.X_OK):
            self.close()
            raise ConfigurationError(
                f"--audit {path}: expected a directory that this user may write to, where a full log makes way for the next; "
                "choose another, or --audit-mib 0 where something else rotates it"
            )

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def _opened(self) -> int:
        # O_NONBLOCK: a FIFO that nobody reads is an error, not a wait.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
        os.set_blocking(fd, True)
        return fd

    def _append(self, data: bytes) -> None:
        if self._regular and self._moved():
            self._begin()
        if self._rotates:
            # Whoever else appends here rotates too: one at a time, and the second finds it done.
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            size = os.fstat(self._fd).st_size
            if size + len(data) > self._limit // FILES and size and not self._moved():
                self._make_way()
            if self._moved():
                self._begin()
            if os.fstat(self._fd).st_size == 0:
                data = self._continued() + data
        try:
            super()._append(data)
        finally:
            if self._rotates:
                fcntl.flock(self._fd, fcntl.LOCK_UN)
        self._gone = {}

    def _moved(self) -> bool:
        try:
            return not os.path.samestat(self._path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return True

    def _begin(self) -> None:
        fd = self._opened()
        os.close(self._fd)  # and with it goes the lock
        self._fd, self._torn = fd, False
        if self._rotates:
            fcntl.flock(fd, fcntl.LOCK_EX)

    def _part(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _make_way(self) -> None:
        oldest = self._part(FILES - 1)
        if oldest.exists():
            self._gone = {"gone_bytes": oldest.stat().st_size, "gone_sha256": _digest(oldest)}
        for number in range(FILES - 2, 0, -1):
            if self._part(number).exists():
                self._part(number).replace(self._part(number + 1))
        self._path.replace(self._part(1))

    def _continued(self) -> bytes:
        before = self._part(1)
        if not before.exists():
            return b""
        told: dict[str, Json] = {"event": "audit", "decision": "continued", "before_sha256": _digest(before), **self._gone}
        return self._line(told)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
