"""What a hub has of a repository: its files by commit, with the ids that git and Git LFS give them. Knows nothing of requests."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

#: What a repository is made from: a directory, or contents by name.
Files = Path | Mapping[str, bytes]
#: From this size on a file is kept by Git LFS, whatever it is called.
LARGE_BYTES = 10 << 20
_CHUNK_BYTES = 1 << 16
_COMMIT = re.compile(r"[0-9a-f]{40}")


def commit_id(label: str) -> str:
    """An id that looks like a commit's; another one for each label."""
    return hashlib.sha1(label.encode(), usedforsecurity=False).hexdigest()


def git_blob_id(content: bytes) -> str:
    """The id git gives a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Content:
    """Bytes in memory or on disk. Those on disk are read while they are sent, and never as a whole."""

    def __init__(self, source: bytes | Path) -> None:
        self._source = source
        self.size = len(source) if isinstance(source, bytes) else source.stat().st_size

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """The bytes from `start` to before `stop`, piece by piece."""
        if isinstance(self._source, bytes):
            for at in range(start, stop, _CHUNK_BYTES):
                yield self._source[at : min(at + _CHUNK_BYTES, stop)]
            return
        with self._source.open("rb") as file:
            file.seek(start)
            while start < stop and (piece := file.read(min(_CHUNK_BYTES, stop - start))):
                start += len(piece)
                yield piece

    @cached_property
    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.read(0, self.size):
            digest.update(piece)
        return digest.hexdigest()

    @cached_property
    def whole(self) -> bytes:
        return b"".join(self.read(0, self.size))


class StoredFile:
    """A file of one commit. A large one is a pointer in git, and its bytes are on the storage host."""

    def __init__(self, name: str, source: bytes | Path, *, large_bytes: int) -> None:
        self.name = name
        self.content = Content(source)
        self.large = name.endswith(".safetensors") or self.content.size >= large_bytes

    @cached_property
    def pointer(self) -> bytes:
        """What git has in a large file's place."""
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.content.sha256}\nsize {self.content.size}\n".encode()
        )

    @cached_property
    def blob_id(self) -> str:
        return git_blob_id(self.pointer if self.large else self.content.whole)

    @property
    def etag(self) -> str:
        """The SHA-256 of a large file, the git blob id of another."""
        return self.content.sha256 if self.large else self.blob_id

    def sibling(self, *, blobs: bool) -> dict[str, Any]:
        """Its entry in what the hub tells of a model; with sizes and digests only where `blobs` was asked for."""
        if not blobs:
            return {"rfilename": self.name}
        told: dict[str, Any] = {"rfilename": self.name, "blobId": self.blob_id, "size": self.content.size}
        if self.large:
            told["lfs"] = {"sha256": self.content.sha256, "size": self.content.size, "pointerSize": len(self.pointer)}
        return told

    def entry(self) -> dict[str, Any]:
        """Its entry in the listing of a tree."""
        told: dict[str, Any] = {"type": "file", "oid": self.blob_id, "size": self.content.size, "path": self.name}
        if self.large:
            told["lfs"] = {"oid": self.content.sha256, "size": self.content.size, "pointerSize": len(self.pointer)}
        return told


class Repository:
    """One model's repository: commits never change, refs do. `main` is the last commit given unless `refs` names another."""

    def __init__(self, repo: str, commits: Mapping[str, Files], refs: Mapping[str, str], *, large_bytes: int) -> None:
        assert commits, f"{repo}: a repository has a commit"
        assert all(_COMMIT.fullmatch(commit) for commit in commits), f"{repo}: a commit is 40 hexadecimal digits"
        self.repo = repo
        self.commits = {commit: _stored(files, large_bytes) for commit, files in commits.items()}
        self.refs = {"main": next(reversed(self.commits)), **refs}
        assert set(self.refs.values()) <= set(self.commits), f"{repo}: a ref names a commit that is not there"

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a whole commit id means; None for anything else."""
        found = self.refs.get(revision.removeprefix("refs/heads/").removeprefix("refs/tags/"), revision)
        return found if found in self.commits else None

    def listing(self, commit: str, path: str, *, recursive: bool) -> list[dict[str, Any]] | None:
        """Entries below a path, directories among them; None where there is no such directory."""
        start = f"{path}/" if path else ""
        inside = {name: file for name, file in self.commits[commit].items() if name.startswith(start)}
        if path and not inside:
            return None
        found: dict[str, dict[str, Any]] = {}
        for name, file in inside.items():
            parts = name.removeprefix(start).split("/")
            for depth in range(1, len(parts)):
                directory = start + "/".join(parts[:depth])
                if recursive or depth == 1:
                    found[directory] = {
                        "type": "directory",
                        "oid": commit_id(f"{commit} {directory}"),
                        "size": 0,
                        "path": directory,
                    }
            if recursive or len(parts) == 1:
                found[name] = file.entry()
        return [found[name] for name in sorted(found)]


def _stored(files: Files, large_bytes: int) -> dict[str, StoredFile]:
    sources: Mapping[str, bytes | Path] = files if isinstance(files, Mapping) else _below(files)
    return {name: StoredFile(name, source, large_bytes=large_bytes) for name, source in sorted(sources.items())}


def _below(directory: Path) -> dict[str, Path]:
    names = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*") if path.is_file()}
    return {name: path for name, path in names.items() if not name.startswith((".cache/", ".git/"))}
