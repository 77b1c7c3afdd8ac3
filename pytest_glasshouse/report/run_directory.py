"""The run directory: the files a run writes while it goes on, for a resumed run and for `glasshouse redact`.

A later process signs what it reads here, so it reads only what this account's own run wrote: the directory and its files belong
to the user, no other user may write to them, none is a link, and every line and file carries a tag (`run_key.TagKey`).

The rule is not `wire.own_file`'s, which also holds the directories above to their owner: a run directory may lie in a
group-writable checkout, because the tags show what another user put there.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.append_log import append_line
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.whole_file import put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.report.run_key import TagKey
    from pytest_glasshouse.wire.canonical import Json

#: What a tag covers: this account's run wrote it, and its reader knows its form.
Tagged: TypeAlias = dict[str, Any]

#: The folder of unpublished reports and rows.
QUARANTINE = "quarantine"
#: The largest file that is read; a larger report could not be checked either.
FILE_LIMIT = 512 * 1024 * 1024
_TAG = ', "tag": "'
_TAIL = len(_TAG) + 64 + len('"}')


class ForeignError(ConfigurationError):
    """A run directory holds what this account's run did not write."""


def private_directory(directory: Path) -> Path:
    """Make the directory, with mode 0700. A link, or a directory of another user, is refused."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigurationError(f"{directory}: expected a directory, or nothing; saw something else") from None
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ConfigurationError(f"{directory}: expected a directory of yours; move it away")
    directory.chmod(0o700)
    return directory


def check_run_directory(directory: Path) -> Path:
    """The directory, links resolved, if only the user may use it and no file in it is foreign. Raises `ForeignError`."""
    try:
        resolved = directory.resolve(strict=True)
        found = resolved.lstat()
    except (OSError, RuntimeError):
        raise ForeignError(f"{directory}: expected a run directory, saw none") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ForeignError(f"{directory}: expected a run directory, saw no directory")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ForeignError(f"{directory}: expected a directory that only you may use (chmod 700); saw one that others may change")
    for folder in (resolved, resolved / QUARANTINE):
        for path in folder.iterdir() if folder.is_dir() else ():
            _refuse_foreign(path)
    return resolved


def read_run_file(path: Path) -> bytes:
    """The bytes of a file of a run directory, if `_refuse_foreign` accepts it. Raises `ForeignError` or `FileNotFoundError`."""
    _refuse_foreign(path)
    try:
        return read_regular(path, limit=FILE_LIMIT)
    except IntegrityError as error:
        raise ForeignError(f"{path}: {error.detail or error.reason}") from None


def write_tagged(path: Path, value: Mapping[str, object], tag_key: TagKey) -> None:
    """Write a file of one JSON object with its tag."""
    put(path, _tagged(value, tag_key, path.name).encode() + b"\n", mode=0o600)


def read_tagged(path: Path, tag_key: TagKey) -> Tagged:
    """The object that `write_tagged` wrote. Raises `ForeignError` or `FileNotFoundError`."""
    line = read_run_file(path).removesuffix(b"\n")
    if not _is_ours(line, tag_key, path.name):
        raise ForeignError(f"{path}: was not written by a run of this account, or was changed since")
    value: Tagged = json.loads(line)
    del value["tag"]
    return value


def read_unverified(path: Path) -> dict[str, Json]:
    """The object of a tagged file, its tag not verified: it names the run whose key the tag is verified with."""
    try:
        value = parse_tolerant(read_run_file(path), limit=FILE_LIMIT)
    except IntegrityError:
        value = None
    if not isinstance(value, dict):
        raise ForeignError(f"{path}: was not written by a run of this account, or was changed since")
    return value


class TaggedLines:
    """An append-only file of JSON lines. Each tag covers the one before it, so no line can be added, changed or removed.

    Lines at the end can be cut off, as a kill does too.
    """

    def __init__(self, path: Path, tag_key: TagKey) -> None:
        self._path = path
        self._tag_key = tag_key
        self._last: str | None = None
        self._lock = threading.Lock()

    def append(self, value: Mapping[str, object]) -> None:
        """Add a line; it is on disk when this returns."""
        with self._lock:
            if self._last is None:
                self.read()
            line = _tagged(value, self._tag_key, self._path.name, after=self._last or "")
            append_line(self._path, line.encode())
            self._last = line[-66:-2]

    def read(self) -> list[Tagged]:
        """Every line, without its tag. A torn line is skipped; a whole line with another tag raises `ForeignError`."""
        try:
            data = read_run_file(self._path)
        except FileNotFoundError:
            data = b""
        found: list[Tagged] = []
        last = ""
        for line in data.split(b"\n"):
            if not _is_ours(line, self._tag_key, self._path.name, after=last):
                if _is_torn(line):
                    continue
                reason = "is not this account's, or was changed, or one before it is gone"
                raise ForeignError(f"{self._path}: line {len(found) + 1} {reason}")
            value = json.loads(line)
            last = value.pop("tag")
            found.append(value)
        self._last = last
        return found


def _refuse_foreign(path: Path) -> None:
    """Raise `ForeignError` for a file of another user, or a link, hard ones too: a run would write to its target."""
    found = path.lstat()
    is_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    if not (is_file or stat.S_ISDIR(found.st_mode)) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise ForeignError(f"{path}: expected a file of yours that others may not write to, and no link; move it away")


def _tagged(value: Mapping[str, object], tag_key: TagKey, what: str, *, after: str = "") -> str:
    body = json.dumps(value)
    return f'{body[:-1]}{_TAG}{tag_key.tag(what, body.encode(), after=after)}"}}'


def _is_ours(line: bytes, tag_key: TagKey, what: str, *, after: str = "") -> bool:
    """Whether `line` is as `_tagged` made it: its last member is a tag over all before it."""
    body, tail = line[:-_TAIL] + b"}", line[-_TAIL:]
    tag = tail[len(_TAG) : -len('"}')].decode("ascii", "replace")
    return tail == f'{_TAG}{tag}"}}'.encode() and tag_key.holds(tag, what, body, after=after)


def _is_torn(line: bytes) -> bool:
    """Whether a kill may have left the line: a part of a JSON object is never JSON. A line above the limit is not torn."""
    try:
        parse_tolerant(line, limit=FILE_LIMIT)
    except IntegrityError as error:
        return error.reason == "malformed"
    return False
