"""A directory for SSH files and the forwarded socket: its path is short enough for a socket and needs no quoting."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError

#: `sun_path` holds 108 bytes; the longest name here is `agent.sock.new`.
_LONGEST = 100
_NAME = "agent.sock.new"
#: Characters that need no quoting in any version of `ssh`, in its configuration or in `-L`.
_PLAIN = re.compile(r"[A-Za-z0-9/._+=-]+")


def short_directory(prefix: str) -> Path:
    """A new directory, mode 0700, below the temporary directory, or below a fallback where that path is unsuitable.

    Raises `ConfigurationError` where none is suitable.
    """
    for base in _bases():
        # `mkdtemp` appends eight characters.
        path = base / f"{prefix}12345678" / _NAME
        if len(os.fsencode(path)) >= _LONGEST or not _PLAIN.fullmatch(str(path)):
            continue
        try:
            return Path(tempfile.mkdtemp(prefix=prefix, dir=base))
        except OSError:
            continue
    raise ConfigurationError(
        "expected a directory for SSH files: writable, with a short path of letters, digits and ._+=-; neither TMPDIR nor /tmp "
        "is one. Set TMPDIR to one"
    )


def _bases() -> list[Path]:
    try:
        temporary = [Path(tempfile.gettempdir())]
    except OSError:
        temporary = []
    own = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    return [*temporary, *([own] if own.is_absolute() else []), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108
