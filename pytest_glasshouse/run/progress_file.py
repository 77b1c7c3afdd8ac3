"""The run directory's file of what runs now: written by the run, read by `glasshouse watch`. Nothing in it is evidence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.bounded_file import read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PROGRESS = "progress.json"
#: `glasshouse watch` reads once a second; writing more often would only wear the disk.
EVERY_S = 1.0
_LIMIT = 1 << 20


class ProgressFile:
    """The lines of all workers, written whole and at most once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = float("-inf")

    def write(self, lines: Mapping[str, str], *, at: float) -> None:
        """`at` is a monotonic time in seconds. A directory that is gone is the run's end, and no error."""
        if at - self._written < EVERY_S or not self._path.parent.is_dir():
            return
        self._written = at
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps(dict(lines)), encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            return


def read_progress(directory: Path) -> dict[str, object]:
    """Worker to line; empty where nothing was written yet, or the run has ended meanwhile."""
    try:
        lines = read_json(directory / PROGRESS)
    except (OSError, IntegrityError):
        return {}
    return dict(lines) if isinstance(lines, dict) else {}
