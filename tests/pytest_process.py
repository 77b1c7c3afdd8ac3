"""What the pytest processes that tests start have in common: compiled files, and no plugins of other projects.

Where Python is told to keep no bytecode a pytest compiles, at every start, each module that it imports, and rewrites the
assertions in each plugin; and the plugins below import more than a whole run of ours does. Neither is a subject of tests.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

#: Plugins that are installed beside ours because some tests, or what those need, came with them.
NO_OTHERS = "-p no:hypothesispytest -p no:anyio -p no:platformdirs"


@dataclass(frozen=True)
class CompiledFiles:
    """A directory of compiled files that the processes of all tests read."""

    directory: Path

    def environment(self) -> dict[str, str]:
        """The variables of a process that reads them, and writes none: a test may change a file twice within a second."""
        return {"PYTHONPYCACHEPREFIX": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": NO_OTHERS}

    @contextlib.contextmanager
    def written(self, project: Path) -> Iterator[None]:
        """Let a process that is started meanwhile write what it compiles; what it compiled of `project` is taken away again."""
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
            try:
                yield
            finally:
                shutil.rmtree(self.directory / project.relative_to("/"), ignore_errors=True)


def compiled_files(config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> CompiledFiles:
    """Those of earlier sessions too, where pytest keeps a cache."""
    cache = getattr(config, "cache", None)
    return CompiledFiles(tmp_path_factory.mktemp("compiled") if cache is None else Path(cache.mkdir("compiled")))
