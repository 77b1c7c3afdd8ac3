"""Memory for secrets on the guest: locked where the system allows, in no core dump, in no forked child, wiped on demand.

Measured: a buffer from `mmap` leaves no copy behind when it is overwritten; a Python `bytes` object does unless it is
overwritten too. `Exposure` accounts for how much plaintext a leg put there, and for how long.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json

#: The strict profile: glibc overwrites freed memory at once. Read when a process starts, so it is in a leg's environment.
#: It covers malloc; Python's own allocator for objects below 512 bytes is not covered (`-I` ignores PYTHONMALLOC).
STRICT_ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"}

_libc = ctypes.CDLL(None, use_errno=True)
#: A `bytes` object of this many bytes or fewer is shared by the interpreter and must not be overwritten.
_SHARED_BYTES = 1
_MLOCK_ONFAULT = 1
_NS = 1_000_000_000


def _lock(address: int, size: int) -> bool:
    """Lock each page on its first fault, not all of them now: the threads that fill the pages then zero them in parallel."""
    return int(_libc.mlock2(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_int(_MLOCK_ONFAULT))) == 0


class Arena:
    """A private mapping of `size` bytes. `locked`: it is never swapped out; `huge`: huge pages were granted.

    The caller must drop every view (and tensor) taken from `view`, then `wipe`.
    """

    def __init__(self, size: int) -> None:
        if size < 0:
            raise ValueError("size")
        self.size = size
        self._map = self._mapping(max(size, 1))
        self.huge = self._advise("MADV_HUGEPAGE")
        self.undumped = self._advise("MADV_DONTDUMP")
        self.uninherited = self._advise("MADV_DONTFORK")
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.locked = _lock(self._address, len(self._map))
        self.view = memoryview(self._map)[:size]
        self.closed = False

    def _mapping(self, size: int) -> mmap.mmap:
        return mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _advise(self, name: str) -> bool:
        advice = getattr(mmap, name, None)
        if advice is None:
            return False
        with contextlib.suppress(OSError):  # a kernel without huge pages still holds a secret
            self._map.madvise(advice)
            return True
        return False

    @property
    def address(self) -> int:
        """Address of its first byte."""
        return self._address

    @property
    def mapped_bytes(self) -> int:
        """Size of the mapping: at least one byte."""
        return len(self._map)

    def wipe(self) -> None:
        """Overwrite everything with zeros. Views stay valid and read zeros."""
        if not self.closed:
            ctypes.memset(self._address, 0, len(self._map))

    def close(self) -> None:
        """Wipe, then unmap; while a view is still held, the memory stays mapped, wiped."""
        self.wipe()
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()
            self.closed = True

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<{type(self).__name__.lower()} of {self.size} bytes, {'locked' if self.locked else 'not locked'}>"


class SharedArena(Arena):
    """An arena that the ranks of a leg share: a memory file, which has no path, and whose `descriptor` only they hold.

    The first rank makes it. Another one opens the `descriptor` that it was given, which is closed here, and must `detach`
    before the first wipes.
    """

    def __init__(self, size: int, *, descriptor: int | None = None) -> None:
        self.descriptor = os.memfd_create("glasshouse-ranks", os.MFD_CLOEXEC) if descriptor is None else descriptor
        if descriptor is None:
            os.ftruncate(self.descriptor, max(size, 1))
        super().__init__(size)

    def _mapping(self, size: int) -> mmap.mmap:
        return mmap.mmap(self.descriptor, size, flags=mmap.MAP_SHARED)

    def detach(self) -> None:
        """Unmap and leave the content to the rank that made it. Every view must have been dropped, or it stays mapped."""
        self.drop_descriptor()
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()
            self.closed = True

    def drop_descriptor(self) -> None:
        """Close the descriptor: nobody else can map this memory from now on."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def close(self) -> None:
        """See `Arena`."""
        super().close()
        self.drop_descriptor()


class LockedSecret(Arena):
    """An arena that holds a key."""

    @classmethod
    def take(cls, value: bytes) -> LockedSecret:
        """Move `value` into locked memory and overwrite the original, which nothing else may reference."""
        secret = cls(len(value))
        secret.view[:] = value
        wipe_bytes(value)
        return secret


def wipe_bytes(value: bytes) -> None:
    """Overwrite the memory of a `bytes` object (CPython). Never of a literal or cached one: those are shared."""
    if len(value) > _SHARED_BYTES:
        ctypes.memset(id(value) + bytes.__basicsize__ - 1, 0, len(value))


class Exposure:
    """Plaintext in host memory over time: byte-seconds and peak. `clock_ns` is monotonic.

    Counts the data key and the opened package; copies made by training are not counted.
    """

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self._since_ns = clock_ns()
        self._bytes = 0
        self._byte_ns = 0
        self.peak_bytes = 0

    def change(self, by: int) -> None:
        """Add `by` bytes from now on; negative when they are wiped."""
        now = self._clock_ns()
        self._byte_ns += self._bytes * (now - self._since_ns)
        self._since_ns = now
        self._bytes += by
        self.peak_bytes = max(self.peak_bytes, self._bytes)

    def to_json(self) -> dict[str, Json]:
        """Whole byte-seconds until the last change, rounded up, and the peak."""
        return {"exposure_byte_s": -(-self._byte_ns // _NS), "exposure_peak_bytes": self.peak_bytes}
