"""Measures a leg's loaded code: the file of every module and executable mapping, compared with what is installed.

The leg lists the files (`guest.loaded_code.collect`); the agent hashes them itself (`Baseline.measure_loaded`). A file is
accounted for when its distribution's RECORD has its hash, when the standard library had it at boot, or when it is a system
library, which was there before the agent; the archive's own modules are measured with the archive. Everything else is foreign,
code that was compiled at run time too, and the policy requires that nothing is foreign. Paths stay on the guest: names and
digests leave it.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import sysconfig
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.evidence import _digest_of

if TYPE_CHECKING:
    from pytest_glasshouse.wire.leg_messages import LoadedFiles

_NOT_HASHED = {"__pycache__", "test", "tests", "idlelib", "tkinter", "turtledemo", "site-packages", "dist-packages"}
#: Endings of names that no importer and no loader takes. A file that has one and is loaded nevertheless is foreign.
_NOT_CODE = (
    ".c", ".cc", ".cpp", ".cu", ".cuh", ".csv", ".dat", ".f", ".f90", ".gz", ".h", ".hpp", ".html", ".js", ".json", ".mat", ".md",
    ".png", ".proto", ".pxd", ".pyi", ".pyx", ".rst", ".svg", ".txt", ".typed", ".yaml",
)  # fmt: skip
#: Files of the interpreter's own importers: code frozen into the executable, which is measured.
_INTERPRETERS_OWN = {"<frozen importlib._bootstrap>", "<frozen importlib._bootstrap_external>", "<frozen zipimport>"}


@dataclass(frozen=True, kw_only=True)
class CodeMeasurement:
    """One measurement of a leg's code: a digest per file, and the names of files that nothing accounts for."""

    files: Mapping[str, str]
    system: Mapping[str, str]
    hooks: tuple[str, ...]
    foreign: tuple[str, ...]

    @property
    def components(self) -> dict[str, str]:
        """Its components of the evidence: digests only."""
        return {
            "images": _digest_of([[name, digest] for name, digest in sorted(self.files.items())]),
            "system": _digest_of([[Path(path).name, digest] for path, digest in sorted(self.system.items())]),
            "hooks": _digest_of([*self.hooks]),
            "foreign": _digest_of([*self.foreign]),
        }


@dataclass
class Baseline:
    """The installed code of this guest, read once, before any leg."""

    site_packages: Sequence[str]
    #: As each RECORD spells them, but for what no process loads as code: headers and data are two thirds of all, and 8 MiB.
    _recorded: dict[str, str] = field(default_factory=dict, repr=False)
    _roots: list[tuple[str, str]] = field(default_factory=list, repr=False)
    _stdlib: dict[str, str] = field(default_factory=dict, repr=False)
    _seen: dict[tuple[str, int, int, int], str] = field(default_factory=dict, repr=False)
    packages: str = ""
    stdlib: str = ""
    #: When this baseline was begun, as files are dated. A library that changed later is not the system's, whatever its date says.
    since_ns: int = field(default_factory=time.time_ns)

    def __post_init__(self) -> None:
        records = {}
        for folder in dict.fromkeys(self.site_packages):
            self._roots += [(folder, ""), (os.path.realpath(folder), "")]
            for entry in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else ():
                if entry.is_symlink():
                    self._roots.append((os.path.realpath(entry), entry.name))
                if entry.name.endswith(".dist-info") and (entry / "RECORD").is_file():
                    content = (entry / "RECORD").read_bytes()
                    records[entry.name] = sha256_hex(content)
                    self._recorded.update(_hashes(content))
        self.packages = _digest_of([[name, digest] for name, digest in sorted(records.items())])
        # Legs are compared with this state; the policy may name a reference value for it.
        roots = {os.path.realpath(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib")}
        for root in sorted(roots):
            for path in _code_below(root):
                self._stdlib[path] = self._hash(path)
        self.stdlib = _digest_of(sorted(self._stdlib.values()))

    def measure_loaded(self, loaded: LoadedFiles, *, archive: str) -> CodeMeasurement:
        """Hash every file that a leg loaded. `archive` is the path prefix of modules from the measured archive."""
        files: dict[str, str] = {}
        system: dict[str, str] = {}
        foreign: list[str] = []
        for path, inode in loaded["maps"]:
            if not self._is_mapped(path, inode):
                foreign.append(f"{Path(path).name}: not the file that was mapped")
                continue
            digest, expected = self._hash(path), self._expected(path)
            if expected is None and not self._is_installed(path):
                if Path(path).stat().st_ctime_ns >= self.since_ns:
                    foreign.append(f"{Path(path).name}: compiled or written at run time")
                else:
                    system[path] = digest
            elif digest == expected:
                files[Path(path).name] = digest
            else:
                foreign.append(f"{Path(path).name}: not as installed")
        for name, path in loaded["modules"]:
            if path.startswith(archive):
                continue
            digest = self._hash(path) if Path(path).is_file() else ""
            if digest and digest == self._expected(path):
                files[name] = digest
            else:
                foreign.append(f"{name}: not as installed")
        hooks = loaded["hooks"]
        foreign += [f"{name}: an import hook that is not installed" for name, path in hooks if not self._is_hook(path, archive)]
        return CodeMeasurement(files=files, system=system, hooks=tuple(name for name, _ in hooks), foreign=tuple(sorted(foreign)))

    def _is_hook(self, path: str, archive: str) -> bool:
        if path in _INTERPRETERS_OWN or path.startswith(archive):
            return True
        return Path(path).is_file() and self._hash(path) == self._expected(path)

    def _expected(self, path: str) -> str | None:
        found = self._stdlib.get(path) or self._in_records(path)
        if found is None:
            real = os.path.realpath(path)
            found = self._stdlib.get(real) or self._in_records(real)
        return found

    def _in_records(self, path: str) -> str | None:
        for root, prefix in self._roots:
            if path == root and prefix in self._recorded:
                return _hex(self._recorded[prefix])
            if path.startswith(root + "/"):
                name = "/".join(part for part in (prefix, path[len(root) + 1 :]) if part)
                if name in self._recorded:
                    return _hex(self._recorded[name])
        return None

    def _is_installed(self, path: str) -> bool:
        return any(path.startswith(root + "/") for root, _ in self._roots)

    def _is_mapped(self, path: str, inode: str) -> bool:
        try:
            found = Path(path).stat()
        except OSError:
            return False
        return int(inode.rsplit(":", 1)[1]) == found.st_ino

    def _hash(self, path: str) -> str:
        found = os.stat(path)  # noqa: PTH116  (thousands of files for each leg: a `Path` takes longer than the question)
        key = (path, found.st_ino, found.st_size, found.st_ctime_ns)
        if key not in self._seen:
            self._seen[key] = _file_digest(path)
        return self._seen[key]


def tree_digest(folder: Path) -> str:
    """The digest of every file below a folder, by name."""
    paths = (f"{inside}/{name}" for inside, _, names in os.walk(folder) for name in names)
    names = sorted((path[len(str(folder)) + 1 :] for path in paths if os.path.isfile(path)), key=lambda name: name.split("/"))  # noqa: PTH113
    return _digest_of([[name, _file_digest(f"{folder}/{name}")] for name in names])


def _file_digest(path: str) -> str:
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hashes(record: bytes) -> Iterator[tuple[str, str]]:
    """Names, and the digests as they are spelled: the rows of a CSV, most of which need no parser of CSV."""
    for row in io.BytesIO(record):  # one at a time: the largest has megabytes
        line = row.decode("utf-8", errors="replace").rstrip("\r\n")
        if line.startswith('"'):
            name, hashed, *_ = [*next(csv.reader([line])), ""]
        else:
            name, _, rest = line.partition(",")
            hashed = rest.partition(",")[0]
        if hashed.startswith("sha256=") and not name.endswith(_NOT_CODE):
            yield name, hashed.removeprefix("sha256=")


def _hex(recorded: str) -> str:
    """The digest that a RECORD spells in base64url without padding; empty, as that of no file, where it spells none."""
    try:
        return base64.urlsafe_b64decode(recorded + "=" * (-len(recorded) % 4)).hex()
    except ValueError:
        return ""


def _code_below(root: str) -> Iterator[str]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_HASHED and not name.startswith("config-")]
        yield from (f"{folder}/{name}" for name in files if name.endswith((".py", ".so")))
