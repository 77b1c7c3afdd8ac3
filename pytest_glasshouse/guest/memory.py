"""Memory for secrets on the guest: locked where the system allows, in no core dump, in no forked child, wiped on demand.

Knows how to hold plaintext and to get rid of it. Refuses to know what it holds. Measured facts behind it: a buffer from
`mmap` leaves no copy behind when it is overwritten, a Python `bytes` object does unless it is overwritten too.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap

#: The strict profile: glibc overwrites what is freed, at once. Read when a process starts, so it is in a leg's environment.
#: Only what malloc hands out is reached; Python's own allocator for objects below 512 bytes is not (`-I` reads no PYTHONMALLOC).
STRICT_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"}

_libc = ctypes.CDLL(None, use_errno=True)
#: A `bytes` object of this many bytes or fewer is shared by the interpreter and must not be overwritten.
_SHARED_BYTES = 1
_MLOCK_ONFAULT = 1


def _lock(address: int, size: int) -> bool:
    """Lock each page when it comes, not all of them now: whoever fills them zeroes them then, in as many threads as it has."""
    return int(_libc.mlock2(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(_MLOCK_ONFAULT))) == 0


class Arena:
    """A private mapping of `size` bytes. `locked` says whether it can be swapped out, `huge` whether huge pages were granted.

    What is still owed: drop every view (and tensor) taken from `view`, then `wipe`.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError("size")
        self.size = size
        self._map = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.huge = self._advise("MADV_HUGEPAGE")
        self.undumped = self._advise("MADV_DONTDUMP")
        self.uninherited = self._advise("MADV_DONTFORK")
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.locked = _lock(self._address, len(self._map))
        self.view = memoryview(self._map)[:size]
        self.closed = False

    def _advise(self, name: str) -> bool:
        advice = getattr(mmap, name, None)
        if advice is None:
            return False
        with contextlib.suppress(OSError):  # a kernel without huge pages is no reason not to hold a secret
            self._map.madvise(advice)
            return True
        return False

    @property
    def address(self) -> int:
        """Where it begins."""
        return self._address

    @property
    def mapped_bytes(self) -> int:
        """How much is mapped: never nothing."""
        return len(self._map)

    def wipe(self) -> None:
        """Overwrite everything with zeros. Views stay valid and read zeros."""
        if not self.closed:
            ctypes.memset(self._address, 0, len(self._map))

    def close(self) -> None:
        """Wipe, then give the memory back; while somebody still holds a view it stays mapped, wiped."""
        self.wipe()
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()
            self.closed = True

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} of {self.size} bytes, {'locked' if self.locked else 'not locked'}>"


class LockedSecret(Arena):
    """An arena that holds a key."""

    @classmethod
    def take(cls, value: bytes) -> LockedSecret:
        """Move `value` into locked memory and overwrite the original, which must not be shared by anybody."""
        secret = cls(len(value))
        secret.view[:] = value
        wipe_bytes(value)
        return secret


def wipe_bytes(value: bytes) -> None:
    """Overwrite the memory of a `bytes` object (CPython). Only for one that nobody else uses: literals and cached ones are."""
    if len(value) > _SHARED_BYTES:
        ctypes.memset(id(value) + bytes.__basicsize__ - 1, 0, len(value))
