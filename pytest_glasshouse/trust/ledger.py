"""What the server must remember across a restart: policy versions, attempts, releases, completions.

Knows one append-only file of canonical lines, synced before the caller goes on. Refuses to hold secrets, sessions or
nonces that are still open: a restart forgets those, and forgetting refuses.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from pathlib import Path

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.canonical import Json, canonical, parse_object


class Ledger:
    """Events in order. Without a path it lasts as long as the process."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[dict[str, Json]] = []
        self._file = None if path is None else os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._file is not None:
            self._load(self._file, str(path))

    def _load(self, file: int, name: str) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(file)
            self._file = None
            raise ConfigurationError(f"ledger {name}: another server is using it") from None
        with os.fdopen(os.dup(file), "rb") as reader:
            text = reader.read()
        # A line without its end was never synced, so nothing was released on its account.
        whole = text[: text.rfind(b"\n") + 1]
        os.ftruncate(file, len(whole))
        os.lseek(file, 0, os.SEEK_END)
        self.events.extend(parse_object(line) for line in whole.splitlines())

    def append(self, event: Mapping[str, Json]) -> None:
        """Remember `event`. When this returns it is on disk; when it raises, nothing may be done on its account."""
        if self._file is not None:
            line = canonical(dict(event)) + b"\n"
            if os.write(self._file, line) != len(line):
                raise OSError("ledger: short write")
            os.fsync(self._file)
        self.events.append(dict(event))

    def of(self, kind: str) -> list[dict[str, Json]]:
        """The events of one kind, in order."""
        return [event for event in self.events if event["event"] == kind]

    def close(self) -> None:
        """Let another server use the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
