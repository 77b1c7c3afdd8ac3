"""Parts as a leg has them: anonymous memory that must be free to close once the trainer is closed."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.workloads.base import Material
from pytest_glasshouse.workloads.registry import prepare
from tests.unit.workloads.hub_model import hub_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from tests.loopback.hub import Hub


@pytest.fixture
def mapped() -> Callable[[Mapping[str, bytes]], dict[str, memoryview]]:
    """Lays parts out in anonymous memory; `view.obj` is the mapping."""

    def lay_out(parts: Mapping[str, bytes]) -> dict[str, memoryview]:
        views = {}
        for name, content in parts.items():
            memory = mmap.mmap(-1, len(content))
            memory[:] = content
            views[name] = memoryview(memory)
        return views

    return lay_out


@pytest.fixture(scope="session")
def mlp_material() -> Material:
    return prepare("mlp", seed=7)


@pytest.fixture(scope="session")
def lora_material() -> Material:
    return prepare("lora", seed=7, model="Nobody/Stand-In-0.5B-Nowhere")


@pytest.fixture(scope="session")
def lora_base(lora_material: Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("base")
    assert lora_material.base is not None
    for name, content in lora_material.base.content.items():
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_of() as hub:
        yield hub
