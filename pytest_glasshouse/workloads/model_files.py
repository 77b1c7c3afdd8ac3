"""A base model as files: which of them count, and the one digest that pins them.

Knows file names and bytes; the guest calls `verify_base` before anything is loaded. Refuses to know how a model is built.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import PurePath
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Everything that loading reads has one of these suffixes: pickles are refused by the loader and code is never run.
COVERED_SUFFIXES = frozenset({".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken"})

_DOMAIN = b"pytest-glasshouse/base-model/v1\n"
_CHUNK_BYTES = 1 << 22


def verify_base(directory: Path) -> str:
    """The digest of the model lying in `directory`; the caller compares it with the manifest's before loading.

    Covers every top-level file that loading could read, so an added file changes it as a changed one does.
    """
    if not (directory / "config.json").is_file():
        raise IntegrityError("base-model", "expected config.json; not there")
    digests = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and covered(path.name):
            digests[path.name] = _file_sha256(path)
    _refuse_outside(directory, digests)
    return _combined(digests)


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
            index = json.loads((directory / name).read_bytes())
            named = set(index.get("weight_map", {}).values()) if isinstance(index, dict) else {""}
            if not named <= set(digests):
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
