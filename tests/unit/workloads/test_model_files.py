"""A public base model is pinned by one digest: whatever loading could read must change it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.workloads.model_files import digest_of_files, verify_base

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(lora_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(lora_base, tmp_path / "model")


def test_digest_of_files_is_that_of_the_directory_they_lie_in(model: Path) -> None:
    assert digest_of_files({path.name: path.read_bytes() for path in model.iterdir()}) == verify_base(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_one_changed_byte_changes_the_digest(model: Path, name: str) -> None:
    before = verify_base(model)
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    assert verify_base(model) != before


@pytest.mark.parametrize("name", ["model-00002-of-00002.safetensors", "adapter_config.json", "merges.txt", "chat_template.jinja"])
def test_an_added_file_that_loading_reads_changes_the_digest(model: Path, name: str) -> None:
    before = verify_base(model)
    (model / name).write_text("{}")
    assert verify_base(model) != before


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "pytorch_model.bin"])
def test_files_that_loading_never_reads_do_not_count(model: Path, name: str) -> None:
    before = verify_base(model)
    (model / name).write_text("x")
    assert verify_base(model) == before


def test_two_files_that_change_places_change_the_digest(model: Path) -> None:
    before = verify_base(model)
    first, second = (model / "config.json").read_bytes(), (model / "tokenizer_config.json").read_bytes()
    (model / "config.json").write_bytes(second)
    (model / "tokenizer_config.json").write_bytes(first)
    assert verify_base(model) != before


def test_an_index_that_leaves_the_directory_is_refused(model: Path) -> None:
    """It would load weights that no digest pins."""
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match="not in the directory"):
        verify_base(model)


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"config\.json"):
        verify_base(tmp_path)
