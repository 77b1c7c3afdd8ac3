"""Tests that train are deselected where torch is not installed, those on a GPU where it sees none; the run says how many.

Property tests draw from one seed, which the head of the run prints; `--hypothesis-seed` repeats it.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import re
import secrets
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from tests.fake_nvml.driver import Driver, build

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda


@pytest.fixture
def gpu() -> Iterator[FakeCuda]:
    """A device that behaves like CUDA, with 64 MiB; `device="cuda"` is this one while the test runs."""
    from tests.fake_cuda import FakeCuda

    with FakeCuda() as gpu:
        yield gpu


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    # Workers are given the controller's options, and so its seed.
    if config.getoption("hypothesis_seed") is None and not settings().derandomize:
        config.option.hypothesis_seed = str(secrets.randbits(32))


def pytest_report_header(config: pytest.Config) -> str:
    if settings().derandomize:
        return "property tests: the same examples in every run"
    return f"property tests: --hypothesis-seed={config.getoption('hypothesis_seed')}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is collected stays until the end: the garbage collector need not look through it, now or while tests run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


#: Folders whose tests take seconds, because real processes are their subject.
_SLOW = (
    "live", "rounds", "service", "plugin", "own_hosts", "slurm", "report", "ssh", "gpu", "fake_nvml", "contract", "chaos",
    "calibration", "browser",
)  # fmt: skip


#: Quick tests that import torch and its libraries, which takes five seconds of each process.
_TORCH = re.compile(r"\bimport torch\b|\bmark\.torch\b|\bFakeCuda\b")


#: Files of slow tests that share one guest, which a process of its own would start again.
_TOGETHER = re.compile(r"\btorch_guest\b")


def _folder(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).parts[0]


def _slow_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """An order whose parts, one for each worker, begin with as many files of slow tests: a worker that has none left takes others'.

    What is taken is the end of a part, so that the quick tests that import torch, at the beginning of the first, stay in one process.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    together = [path for path in files if _folder(path) in _SLOW and _TOGETHER.search(path.read_text(encoding="utf-8"))]
    slow = [path for path in files if _folder(path) in _SLOW and path not in together]
    parts: list[list[pytest.Item]] = [[item for path in slow[part::workers] for item in files[path]] for part in range(workers)]
    parts[-1] = [item for path in together for item in files[path]] + parts[-1]
    others = [path for path in files if _folder(path) not in _SLOW]
    torch = {path for path in others if _TORCH.search(path.read_text(encoding="utf-8"))}
    parts[0] = [item for path in others if path in torch for item in files[path]] + parts[0]
    quick = [item for path in others if path not in torch for item in files[path]]
    size = -(-len(items) // workers)
    for part in parts:
        left = max(size - len(part), 0)
        part += quick[:left]
        del quick[:left]
    ordered = [*(item for part in parts for item in part), *quick]
    assert len(ordered) == len(items), "no test is lost by its place"
    return ordered


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
        items[:] = _slow_first(items, workers)
    for marker, has in (("torch", _has_torch), ("cuda", _has_cuda)):
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not has():
            items[:] = [item for item in items if not item.get_closest_marker(marker)]
            config.hook.pytest_deselected(items=marked)


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _has_cuda() -> bool:
    """Whether torch has a CUDA device. It is imported for that only where the driver's library is."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


@pytest.fixture(scope="session")
def nvml_library(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of the stand-in for NVML, compiled."""
    cache = getattr(request.config, "cache", None)
    return build(tmp_path_factory.mktemp("nvml") if cache is None else Path(cache.mkdir("fake-nvml")))


@pytest.fixture
def driver(nvml_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Driver:
    """A stand-in driver with one GPU, until `driver.set` says otherwise."""
    return Driver(nvml_library, tmp_path_factory.mktemp("driver"))
