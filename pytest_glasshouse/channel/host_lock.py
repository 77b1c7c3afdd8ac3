"""The lock of one GPU on a host that several users share: a file in a directory of all of them, and the kernel's lock on it.

Sent to the host as text: standard library only, nothing of this package. The lock is held by an open file and ends with the last
process that has it open, whatever became of it. What is written in the file is for people: who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import stat
import time
from typing import Any

#: Directories that every user of a Linux machine can write to; the first one there is, in this order, for all of them.
_SHARED = ("/run/lock", "/dev/shm", "/tmp")  # noqa: S108
#: In place of these: for machines where none of them is shared, and tests.
DIRECTORY = "GLASSHOUSE_LOCKS"
_PREFIX = "glasshouse-gpu-"
_MOST_BYTES = 4096
#: By everybody, and nobody removes what is another's.
_WRITABLE_BY_ALL = 0o1777


def directory() -> str:
    """Where the locks of this machine are."""
    if os.environ.get(DIRECTORY):
        return os.environ[DIRECTORY]
    for path in _SHARED:
        with contextlib.suppress(OSError):
            if stat.S_IMODE(os.stat(path).st_mode) == _WRITABLE_BY_ALL:
                return path
    return _SHARED[-1]


def user_name() -> str:
    """The name of this process's user."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class GpuLock:
    """One GPU's lock. It is taken by `take`, and freed by `release` or by the end of everything that has `fileno` open."""

    def __init__(self, gpu: str) -> None:
        self.path = os.path.join(directory(), _PREFIX + gpu)
        self._file = -1

    @property
    def fileno(self) -> int:
        """The descriptor that holds it; -1 while it is not held."""
        return self._file

    def take(self, name: str) -> bool:
        """Take it for the allocation `name`; False where somebody holds it."""
        while True:
            file = self.open_file()
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(file)
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                return False
            if self._is_current(file):
                break
            # Its last holder has removed it since it was opened here.
            os.close(file)
        self._file = file
        holder = json.dumps({"user": user_name(), "name": name, "since": int(time.time()), "pid": os.getpid()})
        os.ftruncate(file, 0)
        os.pwrite(file, holder.encode(), 0)
        return True

    def release(self) -> None:
        """Remove the file, where it is this user's own, and free the lock."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            os.close(self._file)
            self._file = -1

    def holder(self) -> dict[str, Any] | None:
        """What its holder wrote: `user`, `name` and `since`, in bounds; None where it is free. It may be a lie."""
        try:
            file = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            # Any user may have written it: also what is nested too deep to be read.
            with contextlib.suppress(ValueError, RecursionError):
                return _cleaned(json.loads(os.pread(file, _MOST_BYTES, 0)))
            return _cleaned({})
        else:
            return None
        finally:
            os.close(file)

    def open_file(self) -> int:
        """Open the file, or make it. One that another user made must not be opened to be made (`fs.protected_regular`)."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        while True:
            with contextlib.suppress(FileNotFoundError):
                return os.open(self.path, flags)
            with contextlib.suppress(FileExistsError):
                file = os.open(self.path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                # Whatever the umask: another user has to be able to take it over when this one is gone.
                os.fchmod(file, 0o666)
                return file

    def _is_current(self, file: int) -> bool:
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path, follow_symlinks=False))
        except FileNotFoundError:
            return False


def _cleaned(found: object) -> dict[str, Any]:
    """Any user of the machine may have written what was found."""
    given = found if isinstance(found, dict) else {}
    texts = {key: "".join(c for c in str(given.get(key, "")) if c.isprintable())[:80] for key in ("user", "name")}
    since = given.get("since")
    return {**texts, "since": since if isinstance(since, int) and 0 <= since < 1 << 40 else 0}
