"""Whether a report was found sound before, so that a directory of many is not checked whole each time.

A verdict is that of these bytes and of this code: its key is a digest of both. It lies in the account's cache directory, and a
file there that others may write is not read. Only the outcome is kept; what a report says is read from the report.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.check.check import faults_of
from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.own_file import read_own
from pytest_glasshouse.wire.whole_file import put

if TYPE_CHECKING:
    from pytest_glasshouse.check.recompute import Derivation
    from pytest_glasshouse.report.fields import Report

_NAME = "checked.json"
_LIMIT = 16 << 20
#: The oldest verdicts are forgotten beyond this.
_MOST = 50_000


class VerdictCache:
    """Verdicts by digest: an empty text is a sound report, else its faults in one line. Written back by `close`.

    `keep` only for what is derived with the project's own functions: those of a test are in no digest of the code.
    """

    def __init__(self, derivation: Derivation | None, *, keep: bool) -> None:
        self._derivation, self._keep = derivation, keep
        self._path = cache_directory() / _NAME
        self._code = _digest_of_code() if keep else b""
        self._known = self._read() if keep else {}
        self._new = False

    def faults_of(self, document: Report, data: bytes) -> str:
        """Why a report is not sound; empty where it is. `document` is what `load_document` read from these bytes."""
        key = self.key(data)
        if key not in self._known:
            self.learn(key, _checked(document, data, self._derivation))
        return self._known[key]

    def key(self, data: bytes) -> str:
        """What a verdict on these bytes is kept under."""
        return hashlib.sha256(self._code + data).hexdigest()

    def learn(self, key: str, faults: str) -> None:
        """Take a verdict over from another process, or from a check that was just made."""
        if self._known.get(key) != faults:
            self._known[key], self._new = faults, True

    def close(self) -> None:
        """Keep what was learnt; a cache that cannot be written costs time only."""
        if not (self._new and self._keep):
            return
        kept = dict(list(self._known.items())[-_MOST:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            put(self._path, json.dumps(kept).encode(), mode=0o600)

    def _read(self) -> dict[str, str]:
        try:
            data = read_own(self._path, what="the cache of verdicts", limit=_LIMIT, secret=False)
            found = parse_tolerant(data, limit=_LIMIT)
        except (ConfigurationError, IntegrityError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {key: text for key, text in found.items() if isinstance(text, str)}


def cache_directory() -> Path:
    """Where the account keeps what may be lost (XDG base directories)."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if Path(named).is_absolute() else Path.home() / ".cache") / "glasshouse"


def _checked(document: Report, data: bytes, derivation: Derivation | None) -> str:
    from pytest_glasshouse.wire.printable import counted, printable

    faults = faults_of(document, data, derivation=derivation)
    return printable(f"{counted(len(faults), 'fault')}; first: {faults[0]}", limit=400) if faults else ""


def _digest_of_code() -> bytes:
    """A digest of this package's files as they are now: another version judges anew."""
    package = Path(__file__).parents[1]
    seen = sorted((str(each.relative_to(package)), each.stat()) for each in package.rglob("*.py"))
    text = "\n".join(f"{name} {status.st_size} {status.st_mtime_ns}" for name, status in seen)
    return hashlib.sha256(text.encode()).digest()
