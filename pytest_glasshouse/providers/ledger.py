"""The lease ledger: what is about to exist, written and fsynced before the call that makes it exist.

One JSON line per step. Whoever finds a ledger knows every allocation name that could be alive.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Ledger:
    """Append-only; a step is on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path

    def write(self, step: str, **fields: str | float | None) -> None:
        """Record one step (`intent`, `created`, `adopted`, `ended`, `not-ended`, ...)."""
        line = json.dumps({"step": step, "at": time.time(), **fields}, sort_keys=True) + "\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, line.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
