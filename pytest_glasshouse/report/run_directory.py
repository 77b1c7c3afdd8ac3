"""The run directory: what a run keeps while it goes on, for a later attempt and for `glasshouse redact`.

Whatever is read back was written by this account's own run or is refused: the directory and its files belong to the user and
nobody else may write them, none is a link, and every line and file carries a tag (`run_key.Proof`) over what it says.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.append_log import append_line
from pytest_glasshouse.wire.bounded_file import read_regular
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.whole_file import put

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.report.run_key import TagKey

#: The folder of what may not be published.
QUARANTINE = "quarantine"
#: Larger files of a run directory are refused: a report of this size could not be checked either.
FILE_LIMIT = 512 * 1024 * 1024
_TAG = ', "tag": "'
_TAIL = len(_TAG) + 64 + len('"}')


class ForeignError(ConfigurationError):
    """Something in a run directory that this account's run did not write."""


def private_directory(directory: Path) -> Path:
    """Make the directory, readable by its owner only. One that is a link or somebody else's is refused."""
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
    """The directory without links in its path, if it is the user's and only he can write there. Raises `ForeignError`."""
    try:
        resolved = directory.resolve(strict=True)
        found = resolved.lstat()
    except (OSError, RuntimeError):
        raise ForeignError(f"{directory}: expected a run directory, saw none") from None
    if not stat.S_ISDIR(found.st_mode):
        raise ForeignError(f"{directory}: expected a run directory, saw no directory")
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise ForeignError(f"{directory}: expected a directory that only you may use (chmod 700): what is in it may be anybody's")
    for folder in (resolved, resolved / QUARANTINE):
        for path in folder.iterdir() if folder.is_dir() else ():
            _refuse_foreign(path)
    return resolved


def read_run_file(path: Path) -> bytes:
    """A file of a run directory: a regular one of the user's that is no link. Raises `ForeignError`, or `FileNotFoundError`."""
    _refuse_foreign(path)
    try:
        return read_regular(path, limit=FILE_LIMIT)
    except IntegrityError as error:
        raise ForeignError(f"{path}: {error.detail or error.reason}") from None


def write_tagged(path: Path, told: Mapping[str, Any], proof: TagKey) -> None:
    """Put a file of one JSON object there, tagged."""
    put(path, _tagged(told, proof, path.name).encode() + b"\n", mode=0o600)


def read_tagged(path: Path, proof: TagKey) -> dict[str, Any]:
    """What `write_tagged` wrote. Raises `ForeignError`, or `FileNotFoundError`."""
    line = read_run_file(path).removesuffix(b"\n")
    if not _is_ours(line, proof, path.name):
        raise ForeignError(f"{path}: was not written by a run of this account, or was changed since")
    told: dict[str, Any] = json.loads(line)
    del told["tag"]
    return told


def read_unverified(path: Path) -> dict[str, Any]:
    """What a tagged file says of itself, believed by nobody: to find the key it must be tagged with."""
    try:
        told = parse_tolerant(read_run_file(path), limit=FILE_LIMIT)
    except IntegrityError:
        told = None
    if not isinstance(told, dict):
        raise ForeignError(f"{path}: was not written by a run of this account, or was changed since")
    return told


class TaggedLines:
    """An append-only file of JSON lines. Each is tagged over the one before it, so none can be added, changed or taken out.

    Lines at the end can be cut off, as a kill does too.
    """

    def __init__(self, path: Path, proof: TagKey) -> None:
        self._path = path
        self._proof = proof
        self._last: str | None = None
        self._lock = threading.Lock()

    def append(self, told: Mapping[str, Any]) -> None:
        """Add a line; it is on disk when this returns. A line that a kill tore is closed first."""
        with self._lock:
            if self._last is None:
                self.read()
            line = _tagged(told, self._proof, self._path.name, after=self._last or "")
            append_line(self._path, line.encode())
            self._last = line[-66:-2]

    def read(self) -> list[dict[str, Any]]:
        """Every line, without its tag. A torn one is passed over; a whole one that is not ours is `ForeignError`."""
        try:
            data = read_run_file(self._path)
        except FileNotFoundError:
            data = b""
        found: list[dict[str, Any]] = []
        last = ""
        for line in data.split(b"\n"):
            if not _is_ours(line, self._proof, self._path.name, after=last):
                if _is_torn(line):
                    continue
                told_why = "is not this account's, or was changed, or one before it is gone"
                raise ForeignError(f"{self._path}: line {len(found) + 1} {told_why}")
            told = json.loads(line)
            last = told.pop("tag")
            found.append(told)
        self._last = last
        return found


def _refuse_foreign(path: Path) -> None:
    """A link, also a hard one, would have what a run writes here land somewhere else."""
    found = path.lstat()
    is_file = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    if not (is_file or stat.S_ISDIR(found.st_mode)) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise ForeignError(f"{path}: expected a file of yours that others may not write to, and no link")


def _tagged(told: Mapping[str, Any], proof: TagKey, what: str, *, after: str = "") -> str:
    body = json.dumps(told)
    return f'{body[:-1]}{_TAG}{proof.tag(what, body.encode(), after=after)}"}}'


def _is_ours(line: bytes, proof: TagKey, what: str, *, after: str = "") -> bool:
    """Whether `line` is what `_tagged` made: its tag is its last member and over all that is before."""
    body, tail = line[:-_TAIL] + b"}", line[-_TAIL:]
    tag = tail[len(_TAG) : -len('"}')].decode("ascii", "replace")
    return tail == f'{_TAG}{tag}"}}'.encode() and proof.holds(tag, what, body, after=after)


def _is_torn(line: bytes) -> bool:
    """Whether a kill may have left the line: of an object, nothing but the whole is JSON. One too large to tell is none."""
    try:
        parse_tolerant(line, limit=FILE_LIMIT)
    except IntegrityError as error:
        return error.reason == "malformed"
    return False
