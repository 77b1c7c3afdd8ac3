"""What the pytest processes that tests start have in common: byte code that they read, and no plugins of other projects.

They find compiled what installing the libraries compiled, and what this process and those before them did: beside the sources,
or where PYTHONPYCACHEPREFIX says. The plugins below import more than a whole run of ours does. Neither is a subject of tests.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Plugins that are installed beside ours because some tests, or what those need, came with them.
NO_OTHERS = "-p no:hypothesispytest -p no:anyio -p no:platformdirs"


@dataclass(frozen=True)
class CompiledFiles:
    """Where the processes of all tests find compiled files: below `prefix`, or beside each source."""

    prefix: Path | None

    def environment(self) -> dict[str, str]:
        """The variables of a process that reads them, and writes none: a test may change a file twice within a second."""
        return {"PYTHONPYCACHEPREFIX": str(self.prefix or ""), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": NO_OTHERS}

    @contextlib.contextmanager
    def written(self, project: Path) -> Iterator[None]:
        """Let a process that is started meanwhile write what it compiles; what it compiled of `project` is taken away again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            try:
                yield
            finally:
                self.forget(project)

    def forget(self, project: Path) -> None:
        """Remove what a process that writes compiled files compiled of `project`."""
        beside = list(project.rglob("__pycache__"))
        for folder in beside if self.prefix is None else [self.prefix / project.relative_to("/")]:
            shutil.rmtree(folder, ignore_errors=True)


def compiled_files() -> CompiledFiles:
    """As this process finds them."""
    return CompiledFiles(None if sys.pycache_prefix is None else Path(sys.pycache_prefix))
