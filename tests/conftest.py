"""Where torch is not installed, the tests that train are deselected, and the run says how many."""

from __future__ import annotations

import importlib.util

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("torch") is not None:
        return
    training = [item for item in items if item.get_closest_marker("torch")]
    items[:] = [item for item in items if not item.get_closest_marker("torch")]
    config.hook.pytest_deselected(items=training)
