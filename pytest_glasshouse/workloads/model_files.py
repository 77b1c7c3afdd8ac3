"""The files of a base model, the list that names each with size and SHA-256, and the digest of that list.

Knows file names and bytes, not how a model is built. A guest's agent verifies a model's files once, when they arrive; a leg opens
them as a `VerifiedBase`.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import parse_tolerant
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

#: Loading reads files with these suffixes only: the loader refuses pickles and never runs code.
COVERED_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken"})
#: The largest config or weight index, in bytes.
JSON_LIMIT = 16 << 20
#: The most files of one model that loading could read, and the most bytes of one of them.
MOST_FILES = 2000
LARGEST_FILE = 1 << 40

WEIGHTS = ".safetensors"
WHOLE, INDEX = f"model{WEIGHTS}", f"model{WEIGHTS}.index.json"

_DOMAIN = b"pytest-glasshouse/base-model/v1\n"
_CHUNK_BYTES = 1 << 22
#: Longer than one tick of the clock of file times.
_TICK_NS = 20_000_000
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, order=True)
class ModelFile:
    """One file of a model. Raises `IntegrityError` for a name that is a path, a size or a digest that is none."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not covered(self.name):
            raise IntegrityError("base-model", f"expected the name of a model's file; saw {printable(self.name, limit=80)}")
        if not 0 <= self.size <= LARGEST_FILE or not _SHA256.fullmatch(self.sha256):
            raise IntegrityError("base-model", f"{self.name}: expected a size in bytes and a SHA-256 in hex")


def listed(directory: Path) -> tuple[ModelFile, ...]:
    """Every top-level file in `directory` that loading could read, each read once; of weights, those that it reads.

    Raises `IntegrityError` if there is no config, or a weight index names another file.
    """
    if not (directory / "config.json").is_file():
        raise IntegrityError("base-model", "expected config.json; not there")
    files = tuple(_file(path) for path in covered_files(directory))
    refuse_outside(directory, {file.name for file in files})
    return files


def _file(path: Path) -> ModelFile:
    return ModelFile(name=path.name, size=path.stat().st_size, sha256=file_sha256(path))


def listed_content(files: Mapping[str, bytes]) -> tuple[ModelFile, ...]:
    """The list of a directory with these files."""
    return tuple(
        ModelFile(name=name, size=len(files[name]), sha256=hashlib.sha256(files[name]).hexdigest())
        for name in _without_unused(sorted(filter(covered, files)), lambda: files[INDEX])
    )


def digest_of(files: Iterable[ModelFile]) -> str:
    """The digest that pins a model: of every listed name and content, so that an added file changes it too."""
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in sorted(files))
    return hashlib.sha256(_DOMAIN + lines.encode()).hexdigest()


def verify_base(directory: Path) -> str:
    """The digest of the model in `directory`, to be compared with the manifest's."""
    return digest_of(listed(directory))


def differing(
    directory: Path, files: Iterable[ModelFile], *, on_bytes: Callable[[int], None] = lambda _count: None
) -> tuple[str, ...]:
    """Names of the listed files that are not in `directory` as they were listed, and of those there that are not listed.

    `on_bytes` is called with the count of bytes read since the last call.
    """
    wanted = {file.name: file for file in files}
    there = {path.name: path for path in covered_files(directory)} if directory.is_dir() else {}
    return tuple(
        name
        for name in sorted(wanted.keys() | there.keys())
        if name not in wanted
        or name not in there
        or there[name].stat().st_size != wanted[name].size
        or file_sha256(there[name], on_bytes=on_bytes) != wanted[name].sha256
    )


def unlisted(directory: Path, files: Iterable[ModelFile]) -> tuple[str, ...]:
    """Names of the listed files that are not in `directory`, and of those there that are not listed."""
    there = {path.name for path in covered_files(directory)} if directory.is_dir() else set()
    return tuple(sorted({file.name for file in files} ^ there))


class VerifiedBase:
    """A base model whose files were verified, and a later check that they are unchanged.

    Loading reads the files again, and on the CPU the tensors may stay mapped from them. Writing, replacing or adding a file
    meanwhile changes its change time, which only the kernel sets, its inode, or the list.
    """

    def __init__(self, directory: Path, seen: str) -> None:
        """Raises `IntegrityError("base")` unless the files are the ones `seen` (`identity`) when they were verified."""
        self._directory = directory
        self._seen = seen
        self.check()

    def check(self) -> None:
        """Raise `IntegrityError` (`base`) if the files are not the verified ones."""
        if identity(self._directory) != self._seen:
            raise IntegrityError("base", "the base model was changed while it was in use")


def settled(directory: Path, *, clock_ns: Callable[[], int] = time.time_ns) -> str:
    """The files' `identity`, to be taken before they are verified: once a later write would change it.

    A write within the same tick of the kernel's clock would not change the change time.
    """
    while 0 <= clock_ns() - max((path.stat().st_ctime_ns for path in covered_files(directory)), default=0) < _TICK_NS:
        time.sleep(_TICK_NS / 1e9)
    return identity(directory)


def identity(directory: Path) -> str:
    """A digest of the files' names, devices, inodes, sizes and change times (the kernel's), without reading them."""
    digest = hashlib.sha256()
    for path in covered_files(directory):
        status = path.stat()
        digest.update(f"{path.name}\n{status.st_dev} {status.st_ino} {status.st_size} {status.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def covered_files(directory: Path) -> list[Path]:
    """The files of a list, by name: a repository may also have weights in another form, or twice."""
    names = [path.name for path in sorted(directory.iterdir()) if path.is_file() and covered(path.name)]
    return [directory / name for name in _without_unused(names, (directory / INDEX).read_bytes)]


def _without_unused(names: list[str], index: Callable[[], bytes]) -> list[str]:
    """Without weights that loading does not read: it takes `model.safetensors`, or else the files that the index names."""
    if WHOLE in names:
        used = {WHOLE}
    elif INDEX in names:
        try:
            content: Any = parse_tolerant(index(), limit=JSON_LIMIT)
            used = set(content["weight_map"].values())
        except (IntegrityError, KeyError, TypeError, AttributeError, OSError):
            return names
    else:
        return names
    return [name for name in names if not name.endswith(WEIGHTS) or name in used]


def covered(name: str) -> bool:
    """Whether loading could read this file, so that the list must have it; of weights, see `covered_files`."""
    return PurePath(name).suffix in COVERED_SUFFIXES and not name.startswith(".")


def refuse_outside(directory: Path, names: Iterable[str]) -> None:
    """Refuse a weight index that names a file outside `names`, which no digest pins, or outside the directory."""
    names = set(names)
    for name in sorted(names):
        if name.endswith(".safetensors.index.json"):
            index = parse_tolerant((directory / name).read_bytes(), limit=JSON_LIMIT)
            weights = index.get("weight_map", {}) if isinstance(index, dict) else None
            named = list(weights.values()) if isinstance(weights, dict) else [None]
            # Of an index that loading does not read, the files may be missing: they are not in the list.
            unread = name != INDEX or WHOLE in names
            if not all(isinstance(each, str) and (each in names or (unread and _NAME.fullmatch(each))) for each in named):
                raise IntegrityError("base-model", f"{name} names weights that are not in the directory")


def file_sha256(path: Path, *, on_bytes: Callable[[int], None] = lambda _count: None) -> str:
    """The file's SHA-256 in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
