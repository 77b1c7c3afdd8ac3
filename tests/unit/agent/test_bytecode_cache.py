"""The byte-code cache is removed with its guest."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pytest_glasshouse.agent.bytecode_cache import BytecodeCache
from pytest_glasshouse.errors import GlasshouseError
from tests.limits import HANG_S

#: A compiler that reports its start and never ends.
COMPILER = """
import pathlib, time
pathlib.Path({started!r}).write_text("")
while True:
    pathlib.Path({cache!r}).mkdir(parents=True, exist_ok=True)
    time.sleep(0.001)
"""


def test_nothing_is_compiled_once_the_guest_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that still ran created the removed directory again, and a killed run left it behind."""
    monkeypatch.setattr("sys.dont_write_bytecode", True)  # it is set for the process, which here is the tests'
    source, started, cache = tmp_path / "compile.py", tmp_path / "started", tmp_path / "guest" / "bytecode"
    source.write_text(COMPILER.format(started=str(started), cache=str(cache)))
    os.mkfifo(started)
    archive = os.open(source, os.O_RDONLY)
    bytecode = BytecodeCache(cache, archive_fd=archive, site_packages=(), environment={})
    with ThreadPoolExecutor() as threads:
        building = threads.submit(bytecode.build, "mlp")
        started.read_text()  # until it runs
        bytecode.end()
        with pytest.raises(GlasshouseError):
            building.result(timeout=HANG_S)
        with pytest.raises(GlasshouseError, match="the guest has ended"):
            bytecode.build("mlp")
    os.close(archive)
