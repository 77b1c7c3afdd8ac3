"""The run directory's file of what runs now: written by the run, read by `glasshouse watch`. Nothing in it is evidence."""

from __future__ import annotations

import json
from dataclasses import dataclass
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

    def write(self, lines: Mapping[str, str], *, at: float, cost: str = "") -> None:
        """`at` is a monotonic time in seconds. A directory that is gone is the run's end, and no error."""
        if at - self._written < EVERY_S or not self._path.parent.is_dir():
            return
        self._written = at
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(json.dumps({"workers": dict(lines), "cost": cost}), encoding="utf-8")
            partial.replace(self._path)
        except OSError:
            return


@dataclass(frozen=True, kw_only=True)
class RunningNow:
    """Worker to line, and what the run has cost so far; empty where nothing was written yet, or the run has ended meanwhile."""

    workers: Mapping[str, str]
    cost: str = ""


def read_progress(directory: Path) -> RunningNow:
    """What a run does now, by its own file."""
    try:
        found = read_json(directory / PROGRESS)
    except (OSError, IntegrityError):
        return RunningNow(workers={})
    workers, cost = (found.get("workers"), found.get("cost")) if isinstance(found, dict) else ({}, "")
    return RunningNow(
        workers={name: str(line) for name, line in workers.items()} if isinstance(workers, dict) else {},
        cost=cost if isinstance(cost, str) else "",
    )
