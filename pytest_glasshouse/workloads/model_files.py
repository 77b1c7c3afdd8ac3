"""The files of a base model, and the digest that pins them.

Knows file names and bytes, not how a model is built. The guest creates a `VerifiedBase` before anything is loaded.
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

#: Loading reads files with these suffixes only: the loader refuses pickles and never runs code.
COVERED_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken"})
#: The largest config or weight index, in bytes.
JSON_LIMIT = 16 << 20

_DOMAIN = b"pytest-glasshouse/base-model/v1\n"
_CHUNK_BYTES = 1 << 22
#: Longer than one tick of the clock of file times.
_TICK_NS = 20_000_000


def verify_base(directory: Path) -> str:
    """The digest of the model in `directory`, to be compared with the manifest's.

    Covers every top-level file that loading could read, so that an added file changes it too.
    """
    if not (directory / "config.json").is_file():
        raise IntegrityError("base-model", "expected config.json; not there")
    digests = {path.name: _file_sha256(path) for path in _covered_files(directory)}
    _refuse_outside(directory, digests)
    return _combined(digests)


class VerifiedBase:
    """A base model whose digest was verified, and a later check that its files are unchanged.

    Loading reads the files a second time, and on the CPU the tensors may stay mapped from them. Writing, replacing or adding a
    file meanwhile changes its change time, which only the kernel sets, its inode, or the list.
    """

    def __init__(self, directory: Path, expected: str | None, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        """Raises `IntegrityError("base")` unless the digest is `expected`."""
        self._directory = directory
        self._seen = identities(directory)
        latest = max((changed for *_, changed in self._seen.values()), default=0)
        while 0 <= clock_ns() - latest < _TICK_NS:
            # A write within the same tick of the kernel's clock would not change the change time.
            time.sleep(_TICK_NS / 1e9)
        if verify_base(directory) != expected:
            raise IntegrityError("base", "the base model on disk is not the one the manifest pins")
        self.check()

    def check(self) -> None:
        """Raise `IntegrityError` (`base`) if the files are not the verified ones."""
        if identities(self._directory) != self._seen:
            raise IntegrityError("base", "the base model was changed while it was in use")


def identities(directory: Path) -> dict[str, tuple[int, int, int, int]]:
    """The files' identities without reading them: device, inode, size and the kernel's change time."""
    found = {}
    for path in _covered_files(directory):
        status = path.stat()
        found[path.name] = (status.st_dev, status.st_ino, status.st_size, status.st_ctime_ns)
    return found


def _covered_files(directory: Path) -> list[Path]:
    return [path for path in sorted(directory.iterdir()) if path.is_file() and covered(path.name)]


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """The digest that `verify_base` computes for a directory of these files."""
    return _combined({name: hashlib.sha256(content).hexdigest() for name, content in files.items() if covered(name)})


def covered(name: str) -> bool:
    """Whether the digest covers this file."""
    return PurePath(name).suffix in COVERED_SUFFIXES and not name.startswith(".")


def _refuse_outside(directory: Path, digests: Mapping[str, str]) -> None:
    """Refuse a weight index that names a file outside the covered ones, which no digest pins."""
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
