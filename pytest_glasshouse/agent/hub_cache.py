"""Keeps downloaded files in the cache of the hub's client, where a later run of this machine finds them.

The cache's form is the client's: contents in `blobs`, and for each commit a folder of links to them. Only what was verified is
put there, and a reader verifies it again.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from pytest_glasshouse.workloads.model_files import ModelFile

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def snapshot_of(cache: Path, repo: str, commit: str) -> Path:
    """Where the cache has the files of a commit."""
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


def keep(cache: Path, repo: str, commit: str, *, directory: Path, files: Iterable[ModelFile]) -> bool:
    """Put the files of `directory` into the cache; false, with nothing written, for a name that is no repository's or commit's.

    Files on the cache's own file system take no more room: they are linked. Raises `OSError`; a file that is there is whole.
    """
    if not _REPO.fullmatch(repo) or not _COMMIT.fullmatch(commit):
        return False
    snapshot = snapshot_of(cache, repo, commit)
    blobs = snapshot.parent.parent / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        source, blob = directory / file.name, blobs / file.sha256
        if source.is_symlink() and source.resolve().parent == blobs.resolve():
            blob = blobs / source.resolve().name  # the cache has it, from another commit
        else:
            _copied(source, blob)
        link = snapshot / file.name
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, snapshot))
    return True


def _copied(source: Path, blob: Path) -> None:
    partial = blob.with_name(f"{blob.name}.{os.getpid()}.incomplete")
    partial.unlink(missing_ok=True)
    try:
        try:
            os.link(source.resolve(), partial)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, partial)
        partial.replace(blob)
    finally:
        partial.unlink(missing_ok=True)
