"""A project with rows and an engine of its own, for pytest to run in."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import tests.native_modules  # noqa: F401
from tests.limits import HANG_S
from tests.plugin.forks import Forks
from tests.pytest_process import NO_OTHERS, CompiledFiles, compiled_files

CONFTEST = """
from fake_engine import FakeEngine
from pytest_glasshouse.plugin.stash import ENGINE

def pytest_configure(config):
    config.stash[ENGINE] = FakeEngine()
"""

ROWS = """
import pytest
from pytest_glasshouse.rows import RowSpec

ROWS = [RowSpec(name=name, workload="mlp", gpu=gpu, order=order, target_s=60 + place)
        for place, (name, gpu, order) in enumerate({rows!r})]

@pytest.mark.parametrize("row", ROWS)
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    outcome = row.run(allocation, protected_runtime, raw_runner)
    row_report.record(outcome)
"""


def rows_file(*rows: tuple[str, str, str] | str) -> str:
    """A test of these rows; a name alone is a raw-first row for an H100."""
    return ROWS.format(rows=[row if isinstance(row, tuple) else (row, "h100", "raw-first") for row in rows])


@dataclass(frozen=True)
class Project:
    """A directory with rows in it, where pytest runs: `run` in this process, `fork` in a copy of one, `spawn` in a new one.

    A copy is enough where a run ends its own process, is ended by a signal, or writes past pytest; see `forks.py`.
    """

    pytester: pytest.Pytester
    compiled: CompiledFiles
    path: Path
    forks: Forks

    def rows(self, *rows: tuple[str, str, str] | str) -> Project:
        """Write a test with these rows; a name alone is a raw-first row for an H100."""
        (self.path / "test_rows.py").write_text(rows_file(*rows), encoding="utf-8")
        return self

    def run(self, *arguments: str) -> pytest.RunResult:
        return self.pytester.runpytest_inprocess(*arguments)

    def fork(self, *arguments: str, **environment: str | None) -> pytest.RunResult:
        """With other values of these variables; None takes one away."""
        given = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
        return self.forks.run(self.path, arguments, given)

    def spawn(self, *arguments: str) -> pytest.RunResult:
        with self.compiled.written(self.path):
            return self.pytester.runpytest_subprocess(*arguments, timeout=HANG_S)

    def report(self) -> dict[str, Any]:
        """The one report of this project."""
        (path,) = self.reports()
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def reports(self) -> list[Path]:
        return sorted((self.path / "reports").glob("*.json"))

    def left_behind(self) -> list[str]:
        """What a run left beside report and bundle."""
        return sorted(path.name for path in (self.path / "reports").glob("*") if path.suffix not in (".json", ".zip"))

    def asked(self, what: str) -> list[str]:
        """The lines of the engine's log that begin with `what`."""
        log = self.path / "engine.log"
        lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(what)]


def add_engine(folder: Path) -> None:
    """Let `fake_engine` be the engine of the project in this directory."""
    here = Path(__file__).parent
    for source in (here / "fake_engine.py", here.parent / "unit" / "report" / "example.py"):
        (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")


@pytest.fixture(scope="session")
def compiled() -> CompiledFiles:
    return compiled_files()


@pytest.fixture(scope="session")
def forks(compiled: CompiledFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    folder = tmp_path_factory.mktemp("forks")
    add_engine(folder)
    (folder / "test_rows.py").write_text(rows_file("good"), encoding="utf-8")
    environment = {**os.environ, **compiled.environment(), "HOME": str(folder), "OPENBLAS_NUM_THREADS": "1"}
    environment = {name: value for name, value in environment.items() if not name.startswith("GLASSHOUSE_")}
    del environment["PYTHONDONTWRITEBYTECODE"]
    with compiled.written(folder):
        made = Forks(folder, environment)
        yield made
        made.close()


@pytest.fixture(scope="session", autouse=True)
def imported_modules_are_no_garbage() -> None:
    """pytest collects twice in each run in this process, and took half of the run's time to look at all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def output_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of pytest-xdist has COLUMNS set, and tables would fit it."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def compiled_files_are_read(compiled: CompiledFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compiled.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def project(pytester: pytest.Pytester, compiled: CompiledFiles, forks: Forks, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose engine is `fake_engine`."""
    for name in ("GLASSHOUSE_ORDER", "GLASSHOUSE_PROVIDER", "GLASSHOUSE_SIGNING_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", NO_OTHERS)  # which `pytester` takes away
    add_engine(pytester.path)
    return Project(pytester, compiled, pytester.path, forks)


@pytest.fixture
def outcomes() -> Callable[[dict[str, Any]], dict[str, str]]:
    """Row name to outcome, for every row in a report."""

    def read(report: dict[str, Any]) -> dict[str, str]:
        measured = {row["name"]: "measured" for row in report["rows"]}
        return measured | {row["name"]: row["outcome"] for row in report["excludedResults"]}

    return read
