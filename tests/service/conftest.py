"""Servers and pytest processes of these tests read the compiled files of those before them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.pytest_process import CompiledFiles, compiled_files


@pytest.fixture(scope="session")
def compiled() -> CompiledFiles:
    return compiled_files()


@pytest.fixture(autouse=True, scope="session")
def compiled_files_are_shared(compiled: CompiledFiles) -> Iterator[None]:
    """For the session, because a server may be one of a module; nothing here changes a file that a process has read."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in compiled.environment().items():
            patch.setenv(name, value)
        patch.delenv("PYTHONDONTWRITEBYTECODE")
        yield
