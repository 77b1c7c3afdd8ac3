"""A leg's base model as a directory: files that its agent verified, or sealed memory files that it inherited.

A sealed memory file can no longer be written by anybody, so the bytes that are loaded are the ones that were verified. Files are
held to their identity instead: see `workloads.model_files.VerifiedBase`.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.workloads.model_files import VerifiedBase, covered

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_glasshouse.wire.host_messages import BasePlan

#: Nobody can write, grow or shrink the file any more, or take this back.
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class Unchanged(Protocol):
    """A base model whose files were verified."""

    def check(self) -> None:
        """Raise `IntegrityError` (`base`) if the files are not the verified ones."""


class SealedBase:
    """A base model in sealed memory files, by the names of its files."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        """Raises `IntegrityError("base")` unless every file is sealed, and named as a model's."""
        self._descriptors = descriptors
        if any("/" in name or not covered(name) for name in descriptors):
            raise IntegrityError("base", "expected the names of a base model's files")
        self.check()

    def check(self) -> None:
        """See `Unchanged`."""
        for descriptor in self._descriptors.values():
            try:
                seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            except OSError:
                seals = 0
            if seals & SEALS != SEALS:
                raise IntegrityError("base", "the base model is not in a sealed memory file")

    def links(self, directory: Path) -> None:
        """Make `directory`, in which the files have their names."""
        directory.mkdir()
        for name, descriptor in self._descriptors.items():
            (directory / name).symlink_to(f"/proc/self/fd/{descriptor}")


@contextlib.contextmanager
def opened(plan: BasePlan | None, expected: str | None) -> Iterator[tuple[Path | None, Unchanged | None]]:
    """The directory to load from while this lasts, and the check of its files; None and None without a base model.

    Raises `IntegrityError("base")` when the model that the agent verified is not the one of this digest, or changed since.
    """
    if plan is None:
        yield None, None
        return
    if plan["sha256"] != expected:
        raise IntegrityError("base", "the base model on this guest is not the one the manifest pins")
    if "descriptors" not in plan:
        directory = Path(plan["directory"])
        yield directory, VerifiedBase(directory, plan["identity"])
        return
    sealed, directory = SealedBase(plan["descriptors"]), Path.cwd() / "base"
    sealed.links(directory)
    try:
        yield directory, sealed
    finally:
        # What was loaded stays mapped; the workspace of a leg is empty when it ends.
        shutil.rmtree(directory)
