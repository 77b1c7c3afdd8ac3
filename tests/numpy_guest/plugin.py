"""`-p tests.numpy_guest.plugin`: rows of this pytest train with numpy. For rows whose file stands in no project of its own."""

from __future__ import annotations

import pytest

from pytest_glasshouse.plugin.stash import ENGINE
from tests.numpy_guest.engine import NumpyEngine


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[ENGINE] = NumpyEngine()
