"""An agent to which models arrive, and the hub they come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.hub import Hub
from tests.unit.agent.arriving_models import COMMIT, FILES, REPO, Guest


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    made = Guest(tmp_path / "guest")
    yield made
    made.end()
    assert not (tmp_path / "guest").exists()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub({REPO: {COMMIT: FILES}}) as hub:
        yield hub
