"""A private temporary directory that works whatever TMPDIR and umask are set to.

Knows where temporary directories are. Refuses a path that is too long for a socket in it, and one that is no text.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.printable import printable

#: sun_path holds 108 bytes with the NUL at its end (unix(7)); this is left for the name of a socket in the directory.
_SOCKET_PATH, _NAME = 107, 24


def new_folder(prefix: str) -> Path:
    """A new directory, mode 0700, with a path that is UTF-8 and short enough for a unix socket inside.

    In TMPDIR where that will do, else where the system has such directories. Raises `OSError` where none can be made.
    """
    last: OSError | None = None
    for base in _bases():
        path = base / f"{prefix}{secrets.token_hex(5)}"
        try:
            if len(str(path).encode()) + 1 + _NAME > _SOCKET_PATH:
                continue
        except UnicodeEncodeError:  # bytes that are no text: JSON and other programs could not name it
            continue
        try:
            path.mkdir(mode=0o700)
            path.chmod(0o700)  # whatever the umask took away
        except OSError as error:
            last = error
        else:
            return path
    raise last or OSError("no temporary directory has a path short enough for a unix socket")


def check_umask() -> None:
    """Raise `ConfigurationError` where this process could not use the files it makes."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    umask = next((int(line.split()[1], 8) for line in status.splitlines() if line.startswith("Umask:")), 0)
    if umask & 0o700:
        raise ConfigurationError(
            f"umask {umask:04o}: expected one that leaves a file to its owner, such as 0022; set it with `umask`"
        )


def expanded(text: str) -> Path:
    """The path that `text` means, `~` and `~user` spelled out. Raises `ConfigurationError` where that home is unknown."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigurationError(
            f"{printable(text)}: expected HOME, or an entry for this user in the system's list, to say what ~ is; saw neither. "
            "Write the whole path"
        ) from None


def _bases() -> list[Path]:
    try:
        given = [tempfile.gettempdir()]
    except OSError:  # it found none that can be written to; making one here raises the reason
        given = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    return [Path(base).absolute() for base in dict.fromkeys([*given, "/tmp", "/var/tmp", "/dev/shm"])]  # noqa: S108
