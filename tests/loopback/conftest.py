"""The real client of a model hub: one process for all tests here, because it only imports and asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.loopback.hub_client import RealClient


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealClient]:
    with RealClient(tmp_path_factory.mktemp("home")) as started:
        yield started
