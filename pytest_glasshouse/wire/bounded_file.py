"""Reading untrusted files: a regular file of at most a given size, or an error of one sentence.

Every untrusted file is read here, and every JSON or TOML text in one by the strict parsers below, so that
size, depth and number of values are bounded before anything is made of them.
"""

from __future__ import annotations

import contextlib
import os
import stat
from mmap import ACCESS_READ, mmap
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, Json, parse_strict
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A file of keys is a few lines.
KEY_FILE_LIMIT = 65_536
_KINDS = (
    (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip
_BOM = b"\xef\xbb\xbf"
#: tomllib takes time by the square of a key's dots.
_LINE_LIMIT = 1 << 16


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """A descriptor to read `path` with, and what it is of. A link is followed; what it leads to has to be a regular file.

    Raises `IntegrityError` with reason `not-a-file` for a FIFO, device, socket or directory, none of which is waited for, and
    `OSError` as `open` does.
    """
    # O_NONBLOCK: opening a FIFO without a writer would block for ever. It means nothing to a regular file.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except ValueError:
        raise IntegrityError("not-a-file", "expected the name of a file, saw one with a NUL in it") from None
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            seen = next((word for is_kind, word in _KINDS if is_kind(found.st_mode)), "something else")
            raise IntegrityError("not-a-file", f"expected a regular file, saw {seen}")
        yield descriptor, found
    finally:
        os.close(descriptor)


def read_regular(path: Path, *, limit: int) -> bytes:
    """The bytes of `path`, a regular file.

    Raises what `opened` does, and `IntegrityError` with reason `too-large` for more than `limit` bytes, also where the file
    grows while it is read.
    """
    with opened(path) as (descriptor, found):
        return read_open(descriptor, found, limit=limit)


def read_open(descriptor: int, found: os.stat_result, *, limit: int) -> bytes:
    """What is left to read of an open regular file. Raises `IntegrityError` with reason `too-large` beyond `limit` bytes."""
    data = bytearray()
    # A file whose size is over the limit is not read at all; one that is larger than its size, only up to the limit.
    while found.st_size <= limit and len(data) <= limit and (piece := os.read(descriptor, min(1 << 20, limit + 1 - len(data)))):
        data += piece
    if max(found.st_size, len(data)) > limit:
        raise IntegrityError("too-large", f"more than {limit} bytes")
    return bytes(data)


def read_named(path: Path, *, what: str, limit: int) -> bytes:
    """`read_regular` of a file that a user named. Raises `ConfigurationError`, which begins with `what`."""
    try:
        return read_regular(path, limit=limit)
    except OSError as error:
        raise ConfigurationError(f"{what}: cannot be read ({error.strerror})") from None
    except IntegrityError as error:
        raise ConfigurationError(f"{what}: {error.detail}") from None


def mapped(path: Path) -> memoryview:
    """A regular file's bytes without a copy of them, for one that may be larger than memory. Raises `ConfigurationError`."""
    try:
        with opened(path) as (descriptor, found):
            return memoryview(mmap(descriptor, 0, access=ACCESS_READ) if found.st_size else b"")
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except IntegrityError as error:
        raise ConfigurationError(f"{path}: {error.detail}") from None


def read_json(path: Path, *, limit: int = MESSAGE_LIMIT) -> Json:
    """The strict JSON in a file, floats included. Raises as `read_regular` and `parse_strict` do."""
    return parse_strict(read_regular(path, limit=limit), limit=limit, floats=True)


def read_toml(path: Path, *, limit: int = 1 << 18) -> dict[str, Any]:
    """The TOML in a file. Raises `IntegrityError` with what is wrong with it, as `read_regular` does, and `OSError`."""
    import tomllib

    data = read_regular(path, limit=limit)
    if data.startswith(_BOM):
        raise IntegrityError("malformed", "it begins with a byte order mark, which TOML has not; save it as plain UTF-8")
    if max(map(len, data.splitlines()), default=0) > _LINE_LIMIT:
        raise IntegrityError("too-large", f"it has a line of more than {_LINE_LIMIT} bytes")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise IntegrityError("malformed", "it is not UTF-8") from None
    except RecursionError:
        raise IntegrityError("malformed", "it is nested too deep") from None
    except ValueError as error:
        raise IntegrityError("malformed", f"it is not TOML: {printable(error)}") from None
