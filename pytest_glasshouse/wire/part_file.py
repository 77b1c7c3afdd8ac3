"""A part of a package that lies in a file: it is read piece by piece when it is sealed, and never held whole.

Knows which file it was when its content was listed, and refuses another one, or one that was written to since.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class PartSource(Protocol):
    """Where the plaintext of a part comes from when it is sealed, if not from memory."""

    def __len__(self) -> int: ...

    def reading(self) -> AbstractContextManager[Callable[[int], memoryview]]:
        """A function that gives the next bytes, in memory that holds them until it is called again."""
        ...


@dataclass(frozen=True, kw_only=True)
class PartFile:
    """One file, as it was when `of` looked at it."""

    path: Path = field(repr=False)
    size: int
    identity: tuple[int, int, int, int] = field(repr=False)

    @classmethod
    def of(cls, path: Path) -> PartFile:
        """The file at `path` as it is now. Raises `ConfigurationError`."""
        try:
            status = path.stat()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "no path has a null character"
            raise ConfigurationError(f"{path}: cannot be read ({why})") from None
        if not stat.S_ISREG(status.st_mode):
            raise ConfigurationError(f"{path}: expected a regular file")
        return cls(path=path, size=status.st_size, identity=_identity(status))

    def __len__(self) -> int:
        return self.size

    @contextlib.contextmanager
    def reading(self) -> Iterator[Callable[[int], memoryview]]:
        """A function that gives the next bytes, in memory that holds them until it is called again.

        Raises `ConfigurationError` where the file cannot be read, and for one that is not the file it was: on opening, and when
        everything was read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be read ({error.strerror})") from None
        buffer = bytearray()

        def take(size: int) -> memoryview:
            nonlocal buffer
            if len(buffer) < size:
                buffer = bytearray(size)
            view = memoryview(buffer)[:size]
            filled = 0
            while filled < size:
                count = os.readv(descriptor, [view[filled:]])
                if not count:
                    raise self._changed()
                filled += count
            return view

        try:
            self._check(descriptor)
            yield take
            self._check(descriptor)
        finally:
            os.close(descriptor)

    def _check(self, descriptor: int) -> None:
        if _identity(os.fstat(descriptor)) != self.identity:
            raise self._changed()

    def _changed(self) -> ConfigurationError:
        return ConfigurationError(f"{self.path.name}: was changed while it was in use; start again when nothing writes to it")


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file is replaced or written to: its change time is set by the kernel only."""
    return status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns
