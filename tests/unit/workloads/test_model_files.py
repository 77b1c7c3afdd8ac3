"""A public base model is pinned by one digest: whatever loading could read must change it."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.workloads.model_files import VerifiedBase, digest_of, identity, listed_content, settled, verify_base

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def model(lora_base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(lora_base, tmp_path / "model")


def test_digest_of_content_is_that_of_the_directory_it_lies_in(model: Path) -> None:
    assert digest_of(listed_content({path.name: path.read_bytes() for path in model.iterdir()})) == verify_base(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"])
def test_one_changed_byte_changes_the_digest(model: Path, name: str) -> None:
    before = verify_base(model)
    content = bytearray((model / name).read_bytes())
    content[len(content) // 2] ^= 1
    (model / name).write_bytes(content)
    assert verify_base(model) != before


@pytest.mark.parametrize("name", ["adapter_config.json", "merges.txt", "chat_template.jinja"])
def test_an_added_file_that_loading_reads_changes_the_digest(model: Path, name: str) -> None:
    before = verify_base(model)
    (model / name).write_text("{}")
    assert verify_base(model) != before


@pytest.mark.parametrize("name", ["README.md", ".gitattributes", "pytorch_model.bin", "consolidated.safetensors"])
def test_files_that_loading_never_reads_do_not_count(model: Path, name: str) -> None:
    before = verify_base(model)
    (model / name).write_text("x")
    assert verify_base(model) == before


def test_of_weights_only_those_count_that_loading_reads() -> None:
    """Repositories have weights in their original form beside those of transformers: twice the bytes for nothing."""
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    files = {"config.json": b"{}", "model-1.safetensors": b"1", "model-2.safetensors": b"2", "consolidated.safetensors": b"3"}

    def names(more: dict[str, bytes]) -> set[str]:
        return {file.name for file in listed_content({**files, **more})} - {"config.json"}

    index_name = "model.safetensors.index.json"
    assert names({index_name: index}) == {index_name, "model-1.safetensors", "model-2.safetensors"}
    assert names({index_name: index, "model.safetensors": b"4"}) == {index_name, "model.safetensors"}
    for unreadable in (b"{", b"[]", b'{"weight_map": []}', b'{"weight_map": {"a": []}}'):
        assert names({index_name: unreadable}) == {index_name, *files} - {"config.json"}, "what is loaded is not known"


def test_swapping_two_files_changes_the_digest(model: Path) -> None:
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


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "consolidated.safetensors.index.json"])
def test_an_index_that_is_not_read_may_name_weights_that_are_not_listed(model: Path, name: str) -> None:
    """The model is in one file here, and in another form beside it."""
    (model / name).write_text(json.dumps({"weight_map": {"model.norm.weight": "consolidated-1.safetensors"}}))
    before = verify_base(model)
    (model / "consolidated-1.safetensors").write_bytes(b"x")
    assert verify_base(model) == before


def test_a_directory_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"config\.json"):
        verify_base(tmp_path)


def a_model(directory: Path) -> str:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_bytes(b"{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return verify_base(directory)


def rewritten(directory: Path) -> None:
    """In place, and back again: the bytes are the verified ones when anybody looks."""
    path = directory / "model.safetensors"
    for content in (b"evil!!!", b"weights"):
        with path.open("r+b") as file:
            file.write(content)


def replaced(directory: Path) -> None:
    (directory / "new").write_bytes(b"weights")
    (directory / "new").replace(directory / "model.safetensors")


def added(directory: Path) -> None:
    (directory / "adapter_config.json").write_bytes(b"{}")


def removed(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def backdated(directory: Path) -> None:
    """A writer may also set the modification time; the kernel records that too."""
    path = directory / "model.safetensors"
    status = path.stat()
    path.write_bytes(b"evil!!!")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [rewritten, replaced, added, removed, backdated])
def test_a_base_that_was_changed_since_it_was_verified_is_refused(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Loading reads the files again: between the two the weights could be replaced."""
    a_model(tmp_path)
    base = VerifiedBase(tmp_path, settled(tmp_path))
    base.check()
    change(tmp_path)
    with pytest.raises(IntegrityError, match="changed while it was in use"):
        base.check()


def test_a_base_that_nobody_touches_stays_verified(tmp_path: Path) -> None:
    """The check raises nothing after reading, or beside files that loading never reads."""
    a_model(tmp_path)
    base = VerifiedBase(tmp_path, settled(tmp_path))
    (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "notes.md").write_bytes(b"x")
    base.check()


def test_another_base_is_refused(tmp_path: Path) -> None:
    a_model(tmp_path)
    with pytest.raises(IntegrityError, match="changed while it was in use"):
        VerifiedBase(tmp_path, "0" * 64)


def test_files_modified_just_now_are_verified_after_a_clock_tick(tmp_path: Path) -> None:
    """Within one tick of the kernel's clock a second write would leave no trace."""
    a_model(tmp_path)
    latest = max(path.stat().st_ctime_ns for path in tmp_path.iterdir())
    asked: list[int] = []

    def clock_ns() -> int:
        asked.append(latest + len(asked) * 15_000_000)
        return asked[-1]

    assert settled(tmp_path, clock_ns=clock_ns) == identity(tmp_path)
    assert len(asked) == 3
