"""Files and directories that only this user and root can change: keys, and whatever state decides by.

Knows owners and modes, of the file and of every directory and link on the way to it: who may write to one of them may put
another file there. Refuses what others may write to, and a secret that others may read, as ssh does.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.printable import printable

#: The kernel's own limit (path_resolution(7)).
_LINKS = 40


def read_own(path: Path, *, what: str, limit: int, secret: bool = True) -> bytes:
    """The bytes of a file that `check_own` accepts. `what` names in an error where the path came from.

    Raises `ConfigurationError`, also for what cannot be read, is no regular file or has more than `limit` bytes.
    """
    check_own(path, what=what, secret=secret)
    try:
        return read_regular(path, limit=limit)
    except OSError as error:
        raise ConfigurationError(f"{what}: {printable(path)} cannot be read ({error.strerror})") from None
    except IntegrityError as error:
        raise ConfigurationError(f"{what}: {printable(path)} cannot be read ({error.detail})") from None


def check_own(path: Path, *, what: str, secret: bool = False) -> None:
    """Raise `ConfigurationError` unless only this user and root may change `path`; a `secret` may be readable by no other user.

    A directory that others may write to and that has the sticky bit, such as /tmp, is no fault: they cannot replace there
    what is not theirs.
    """
    try:
        for place, found in _way(path.absolute()):
            _check(place, found, what=what)
    except OSError as error:
        raise ConfigurationError(f"{what}: {printable(path)} cannot be read ({error.strerror})") from None
    if secret and found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigurationError(f"{what}: {printable(path)} may be used by others (mode {mode:04o}); chmod 600 it")


def _way(path: Path) -> list[tuple[Path, os.stat_result]]:
    """Every directory and link that has to be followed from the root to `path`, and what is there at last."""
    place = Path(path.anchor)
    way, ahead, links = [(place, place.lstat())], list(path.parts[1:]), 0
    while ahead:
        part = ahead.pop(0)
        if part == "..":
            place = place.parent
            continue
        found = (place / part).lstat()
        way.append((place / part, found))
        if not stat.S_ISLNK(found.st_mode):
            place /= part
            continue
        links += 1
        if links > _LINKS:
            raise OSError(40, "Too many levels of symbolic links")
        target = (place / part).readlink()
        place = Path(target.anchor) if target.is_absolute() else place
        ahead = [*target.parts[1 if target.is_absolute() else 0 :], *ahead]
    return way


def _check(place: Path, found: os.stat_result, *, what: str) -> None:
    shown = printable(place)
    if found.st_uid not in _ours():
        raise ConfigurationError(
            f"{what}: {shown} belongs to another user (uid {found.st_uid}), who may change what is read there; expected this "
            f"user's or root's: chown {shlex.quote(shown)}, or use a place of your own"
        )
    sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky and not stat.S_ISLNK(found.st_mode):
        seen = f"{shown} may be written to by others (mode {stat.S_IMODE(found.st_mode):04o})"
        raise ConfigurationError(f"{what}: {seen}; chmod go-w {shlex.quote(shown)}")


def _ours() -> frozenset[int]:
    """Root, this user, and with sudo the user who called it."""
    user, caller = os.geteuid(), os.environ.get("SUDO_UID", "")
    return frozenset({0, user, *([int(caller)] if user == 0 and caller.isascii() and caller.isdigit() else [])})
