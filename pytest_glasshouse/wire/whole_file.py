"""Writing a file that the user named: atomically where it is a regular file, and through it where it is a pipe or device.

A link is followed, an existing file keeps its mode (and, for root, its owner), and `/dev/null`, a pipe or a terminal stays
what it is. Whether a path can be written is checked before anything costs time or money.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import time
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError

#: Paths that mean a descriptor this process already has open; opened anew, a file behind them would be written from its start.
_DESCRIPTOR = re.compile(r"/dev/(?:fd/(?P<fd>\d{1,9})|(?P<name>stdout|stderr))|/proc/self/fd/(?P<proc>\d{1,9})")
#: How long a FIFO may be without a reader.
_READER_S = 10.0
_LOOK_S = 0.02


def put(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Let `path` hold `data`. `mode` is that of a file made here, less the umask. Raises `OSError`.

    A reader of a regular file finds the old content or the new one, also after a power cut. Only where the file's directory
    may not be written and the file may, it is written in place.
    """
    if is_passed_through(path):
        _write_through(path, data)
        return
    target = Path(os.path.realpath(path))
    old = _stat(target)
    draft = target.parent / f".glasshouse-{secrets.token_hex(6)}"
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except PermissionError:
        if old is None:
            raise
        _write_in_place(target, data)
        return
    try:
        try:
            if old is not None:
                _as_before(descriptor, old)
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_directory(target.parent)


def is_passed_through(path: Path) -> bool:
    """Whether `path` is there and no regular file, so that it is written through and never replaced."""
    if _DESCRIPTOR.fullmatch(os.fspath(path)):
        return True
    found = _stat(path)
    return found is not None and not stat.S_ISREG(found.st_mode)


def refuse_unwritable(path: Path, *, what: str, make_parents: bool = False) -> None:
    """Raise `ConfigurationError`, which begins with `what` and names the path, unless `put` can write there.

    With `make_parents` the folders above are made; without, a missing one is refused. Nothing else is left behind.
    """
    try:
        _try(path, make_parents=make_parents)
    except OSError as error:
        seen = "is a directory; expected a file name" if error.errno == errno.EISDIR else f"cannot be written ({error.strerror})"
        raise ConfigurationError(f"{what}: {path} {seen}") from None
    except ValueError:
        raise ConfigurationError(f"{what}: {str(path)!r} is no path") from None


def sync_directory(path: Path) -> None:
    """Have the names in a directory on disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _try(path: Path, *, make_parents: bool) -> None:
    if (named := _DESCRIPTOR.fullmatch(os.fspath(path))) is not None:
        os.fstat(_number(named))
        return
    found = _stat(path)
    if found is not None and not stat.S_ISREG(found.st_mode):
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
            raise OSError(errno.EINVAL, "neither a file nor a pipe")
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    target = Path(os.path.realpath(path))
    if make_parents:
        target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.parent / f".glasshouse-{secrets.token_hex(6)}"
    try:
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except PermissionError:
        if found is None or not os.access(target, os.W_OK):
            raise
    else:
        draft.unlink()


def _stat(path: Path) -> os.stat_result | None:
    """What `path` leads to; None where nothing is. A name that is too long, or a loop of links, is an `OSError`."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _as_before(descriptor: int, old: os.stat_result) -> None:
    # -1 leaves an owner as it is: only root may give a file away.
    os.fchown(descriptor, *((old.st_uid, old.st_gid) if os.geteuid() == 0 else (-1, -1)))
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _number(named: re.Match[str]) -> int:
    return {"stdout": 1, "stderr": 2}.get(named["name"] or "") or int(named["fd"] or named["proc"])


def _write_through(path: Path, data: bytes) -> None:
    named = _DESCRIPTOR.fullmatch(os.fspath(path))
    descriptor = os.dup(_number(named)) if named is not None else _opened(path)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """A pipe or a device, open for writing; a FIFO without a reader is an error after a while and does not block for ever."""
    until = time.monotonic() + _READER_S
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or time.monotonic() > until:
                raise
            time.sleep(_LOOK_S)
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _write_in_place(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
