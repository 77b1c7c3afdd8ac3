"""The host's half of lora: which model it is, what text, and the message when neither is available."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.workloads.corpus import read_corpus
from pytest_glasshouse.workloads.lora_material import learning_rate, resolve
from pytest_glasshouse.workloads.model_files import verify_base
from pytest_glasshouse.workloads.registry import prepare

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.workloads.base import Material

NOWHERE = "Nobody/Stand-In-0.5B-Nowhere"


def test_an_unavailable_model_is_replaced_and_the_facts_name_it(lora_material: Material) -> None:
    assert lora_material.base is not None
    assert lora_material.base.stand_in
    assert (lora_material.facts["modelId"], lora_material.facts["standIn"]) == (NOWHERE, True)
    assert "Qwen2" in str(lora_material.facts["standInModel"])


def test_the_stand_in_is_made_the_same_each_time(lora_material: Material) -> None:
    from pytest_glasshouse.workloads import stand_in

    assert lora_material.base is not None
    assert stand_in.make.__wrapped__() == lora_material.base.content  # past the cache


def test_a_directory_is_used_as_it_is_and_pinned(lora_base: Path, lora_material: Material) -> None:
    material = prepare("lora", seed=7, model=str(lora_base))
    assert material.base is not None
    assert (material.base.directory, material.base.stand_in, dict(material.base.content)) == (lora_base, False, {})
    assert material.base.sha256 == verify_base(lora_base)
    assert material.initial_sha256 == lora_material.initial_sha256
    assert material.facts["standInModel"] is None


def test_a_model_in_the_local_hub_cache_is_found(lora_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user has already downloaded is used, and nothing is downloaded."""
    revision = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--Nobody--Cached-7B"
    shutil.copytree(lora_base, cached / "snapshots" / revision)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base = resolve("Nobody/Cached-7B")
    assert (base.model_id, base.revision, base.stand_in) == ("Nobody/Cached-7B", revision, False)
    assert base.sha256 == verify_base(lora_base)


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_directory_that_is_no_model_is_named_with_what_it_lacks(lora_base: Path, tmp_path: Path, missing: str) -> None:
    directory = shutil.copytree(lora_base, tmp_path / "model")
    (directory / missing).unlink()
    with pytest.raises(ConfigurationError, match=r"expected .*; not there") as refused:
        resolve(str(directory))
    assert str(refused.value).startswith(f"model directory {directory}: ")
    assert missing.removeprefix("model") in str(refused.value)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected config\.json; not there"):
        resolve(path)


@pytest.mark.parametrize("name", ["a" * 5000, "a/" + "b" * 300, "a\0b", "a\n::error::b", "\x1b[31m"])
def test_an_impossible_model_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="expected a hub id or the name of a directory") as caught:
        resolve(name)
    assert (str(caught.value).isprintable(), len(str(caught.value)) < 200) == (True, True)


def test_a_missing_directory_beside_real_ones_is_not_taken_for_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`models/mine` with a typing error would otherwise train the stand-in."""
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"expected config\.json"):
        resolve("models/mine")


def test_an_adapter_directory_is_refused(lora_base: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(lora_base, tmp_path / "model")
    (directory / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="saw an adapter"):
        resolve(str(directory))


def test_the_rate_goes_by_the_size_the_model_is_named_for() -> None:
    config = {"hidden_size": 64}
    rates = [
        learning_rate(resolve(name), config) for name in ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-7B-Instruct", "some/model")
    ]
    assert rates == ["5e-05", "1e-05", "5e-05"]
    assert learning_rate(resolve("some/model"), {"hidden_size": 4096}) == "1e-05"


def test_text_is_packed_without_gaps(lora_material: Material) -> None:
    from tokenizers import Tokenizer

    assert lora_material.base is not None
    ids = load(lora_material.parts["tokens"])["ids"]
    tokenizer = Tokenizer.from_str(lora_material.base.content["tokenizer.json"].decode())
    assert (ids.dtype, ids.shape[1]) == (np.dtype("int64"), 64)
    assert read_corpus().startswith(tokenizer.decode(ids.ravel().tolist()).rstrip("\ufffd"))


def test_a_row_may_name_its_own_text(tmp_path: Path) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("Another text altogether, of nobody's interest. " * 100)
    material = prepare("lora", seed=7, model=NOWHERE, data=str(text))
    assert material.facts["data"] == "mine.txt"
    assert str(tmp_path) not in json.dumps(material.facts)


@pytest.mark.parametrize(
    ("content", "message"), [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8"), (b"too short", "at least 512 tokens")]
)
def test_unusable_text_is_an_error_of_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    text = tmp_path / "mine.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        prepare("lora", seed=7, model=NOWHERE, data=str(text))


def test_adapter_is_drawn_as_peft_draws_it(lora_material: Material) -> None:
    adapter = load(lora_material.parts["initial"])
    a = np.concatenate([tensor.ravel() for name, tensor in adapter.items() if "lora_A" in name])
    b = np.concatenate([tensor.ravel() for name, tensor in adapter.items() if "lora_B" in name])
    assert np.abs(a).max() <= 64**-0.5
    assert a.std() == pytest.approx(64**-0.5 / 3**0.5, rel=0.1)
    assert not b.any()


def test_another_seed_draws_another_adapter(lora_material: Material) -> None:
    assert prepare("lora", seed=8, model=NOWHERE).initial_sha256 != lora_material.initial_sha256
    assert prepare("lora", seed=7, model=NOWHERE).parts == lora_material.parts


def test_a_model_without_attention_sizes_is_named(lora_base: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(lora_base, tmp_path / "model")
    (directory / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ConfigurationError, match=r"config\.json: expected hidden_size"):
        prepare("lora", seed=7, model=str(directory))


def test_no_model_and_no_such_workload_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a model"):
        prepare("lora", seed=7)
    with pytest.raises(ConfigurationError, match="expected mlp or lora"):
        prepare("cnn", seed=7)  # type: ignore[arg-type]
