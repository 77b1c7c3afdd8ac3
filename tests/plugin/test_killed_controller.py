"""`kill -9` of the process that rents, with workers: nothing of it is left in the temporary directory, whenever it comes."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.limits import HANG_S, until

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

pytest.importorskip("xdist")

#: A guest boots as slowly as it likes.
PATIENT = {"GLASSHOUSE_BOOT_TIMEOUT": str(HANG_S)}
BEFORE_THE_FIRST_GRANT = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    if hasattr(session.config, "workerinput"):
        import os, signal
        os.kill(os.getppid(), signal.SIGKILL)
"""
WITH_A_GUEST = """
import os, signal
import pytest
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name="mlp", workload="mlp", gpu="anygpu", order="raw-first", target_s=60)]

@pytest.mark.parametrize("row", ROWS)
def test_mlp(row, allocation, protected_runtime, raw_runner, row_report):
    os.kill(os.getppid(), signal.SIGKILL)
    assert allocation
"""


@pytest.fixture(name="temporary")
def a_temporary_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="t-", dir="/tmp") as folder:
        yield Path(folder)


def killed(project: Project, temporary: Path) -> None:
    assert project.fork("-p", "no:cacheprovider", "-n1", TMPDIR=str(temporary), **PATIENT).ret == -signal.SIGKILL


def is_left_empty(temporary: Path) -> None:
    """Once everything that the run started has ended; a guest ends with its pipe."""

    def left() -> list[Path]:
        return [path for path in temporary.iterdir() if not path.name.startswith("pytest-of-")]

    until(lambda: not left(), "that nothing of the run is left in its temporary directory")


def test_before_the_first_grant(project: Project, temporary: Path) -> None:
    conftest = project.rows("good").pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text() + BEFORE_THE_FIRST_GRANT)
    killed(project, temporary)
    is_left_empty(temporary)


@pytest.mark.torch
def test_while_a_guest_runs(project: Project, temporary: Path) -> None:
    (project.pytester.path / "conftest.py").unlink()
    project.pytester.makepyfile(test_mlp=WITH_A_GUEST)
    killed(project, temporary)
    is_left_empty(temporary)


@pytest.mark.torch
def test_workers_reach_the_controller_where_no_socket_path_fits(project: Project, tmp_path: Path) -> None:
    """A unix socket's path has room for 107 bytes; a guest then lives elsewhere, and workers need no path."""
    (project.pytester.path / "conftest.py").unlink()
    project.pytester.makepyfile(test_mlp=WITH_A_GUEST.replace("    os.kill(os.getppid(), signal.SIGKILL)\n", ""))
    temporary = tmp_path / ("x" * 120)
    temporary.mkdir()
    project.fork("-p", "no:cacheprovider", "-n1", TMPDIR=str(temporary), **PATIENT)
    (row,) = project.report()["excludedResults"]
    assert "not recorded" in row["reason"]
    assert project.report()["cleanup"]["status"] == "proven"
