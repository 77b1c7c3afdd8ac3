"""A base model as files: which of them count, and the one digest that pins them.

Knows file names and bytes; the guest makes a `VerifiedBase` before anything is loaded. Refuses to know how a model is built.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import PurePath
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import parse_tolerant

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

#: Everything that loading reads has one of these suffixes: pickles are refused by the loader and code is never run.
COVERED_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken"})
#: The largest config or index of weights that is read, in bytes.
JSON_LIMIT = 16 << 20

_DOMAIN = b"pytest-glasshouse/base-model/v1\n"
_CHUNK_BYTES = 1 << 22
#: Longer than a tick of the clock that files are stamped with.
_TICK_NS = 20_000_000


def verify_base(directory: Path) -> str:
    """The digest of the model lying in `directory`, to be compared with the manifest's.

    Covers every top-level file that loading could read, so an added file changes it as a changed one does.
    """
    if not (directory / "config.json").is_file():
        raise IntegrityError("base-model", "expected config.json; not there")
    digests = {path.name: _file_sha256(path) for path in _covered_files(directory)}
    _refuse_outside(directory, digests)
    return _combined(digests)


class VerifiedBase:
    """A base model that was verified, and can tell later whether its files are still those that were.

    Loading reads the files a second time, and on the CPU the tensors may stay mapped from them. Whoever writes to one,
    replaces or adds one meanwhile changes its change time, which only the kernel sets, or its inode, or the list.
    """

    def __init__(self, directory: Path, expected: str | None, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Raises `IntegrityError("base")` unless the digest is `expected`."""
        self._directory = directory
        self._seen = identities(directory)
        latest = max((changed for *_, changed in self._seen.values()), default=0)
        while 0 <= clock_ns() - latest < _TICK_NS:
            # A write within one tick of the kernel's clock would leave the change time as it is.
            time.sleep(_TICK_NS / 1e9)
        if verify_base(directory) != expected:
            raise IntegrityError("base", "the base model on disk is not the one the manifest pins")
        self.check()

    def check(self) -> None:
        """Refuse (`base`) files that are not those that were verified."""
        if identities(self._directory) != self._seen:
            raise IntegrityError("base", "the base model was changed while it was in use")


def identities(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    """What tells, short of reading them, whether files are those of before: device, inode, size and the kernel's change time."""
    found = {}
    for path in _covered_files(directory):
        status = path.stat()
        found[path.name] = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
    return found


def _covered_files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.is_file() and covered(path.name)]


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """The digest `verify_base` gives once `files` lie in a directory of their own."""
    return _combined({name: hashlib.sha256(content).hexdigest() for name, content in files.items() if covered(name)})


def covered(name: str) -> bool:
    """Whether a file counts."""
    return PurePath(name).suffix in COVERED_SUFFIXES and not name.startswith(".")


def _refuse_outside(directory: Path, digests: Mapping[str, str]) -> None:
    """An index of weights may name any path; one that leaves the covered files would load what no digest pins."""
    for name in digests:
        if name.endswith(".safetensors.index.json"):
            index = parse_tolerant((directory / name).read_bytes(), limit=JSON_LIMIT)
            listed = index.get("weight_map", {}) if isinstance(index, dict) else None
            named = list(listed.values()) if isinstance(listed, dict) else [None]
            if not all(isinstance(each, str) and each in digests for each in named):
                raise IntegrityError("base-model", f"{name} names weights that are not in the directory")


def _combined(digests: Mapping[str, str]) -> str:
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(_DOMAIN + lines.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
