"""Where torch is not installed, the tests that train are deselected, and the run says how many.

Property tests draw from one seed, which the head of the run prints; `--hypothesis-seed` repeats it.
"""

from __future__ import annotations

import gc
import importlib.util
import secrets
from collections.abc import Generator

import pytest
from hypothesis import settings


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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch") is not None:
        return
    training = [item for item in items if item.get_closest_marker("torch")]
    items[:] = [item for item in items if not item.get_closest_marker("torch")]
    config.hook.pytest_deselected(items=training)
