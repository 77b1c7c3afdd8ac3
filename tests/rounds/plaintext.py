"""Looks for bytes in every file below a guest's directory, whenever it is told to."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

_WINDOW = 32


def windows(data: bytes) -> list[bytes]:
    """The data in pieces of 32 bytes."""
    return [data[start : start + _WINDOW] for start in range(0, len(data) - _WINDOW + 1, _WINDOW)]


@dataclass
class Search:
    """A search repeated while files change. A file that has not changed since it was read is not read again."""

    #: How old a file's last change is when the time of it tells a later change: file systems count in ticks.
    settled_ns: int = 1_000_000_000
    hits: list[str] = field(default_factory=list)
    #: By inode, size and the times of the last change: for how many of the patterns it was searched.
    _searched: dict[tuple[int, int, int, int], int] = field(default_factory=dict, repr=False)

    def look(self, directory: Path, patterns: list[bytes]) -> None:
        """Search for `patterns`, which may only grow from one look to the next."""
        files = [path for path in directory.rglob("*") if path.is_file()]
        assert files, "an empty directory proves nothing"
        for path in files:
            now, found = time.time_ns(), path.stat()
            state = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            new = patterns[self._searched.get(state, 0) :]
            content = path.read_bytes() if new else b""
            if any(pattern in content for pattern in new):
                self.hits.append(path.name)
            if now - found.st_ctime_ns > self.settled_ns:
                self._searched[state] = len(patterns)
