"""The small models that the loopback hub serves are real ones: the libraries load them whole, and a lora row is prepared from them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.registry import prepare
from tests.loopback.causal_models import FAMILIES, TARGETS, Family, causal_lm, write
from tests.loopback.hub import Hub
from tests.loopback.hub_client import RealClient
from tests.loopback.hub_repository import commit_id


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_row_is_prepared_from_a_model_of_each_family(family: Family, tmp_path: Path) -> None:
    directory = write(causal_lm(family), tmp_path / "model")
    material = prepare("lora", seed=7, model=str(directory), targets=TARGETS.get(family))
    adapted = [name for name in parse_safetensors(material.parts["initial"]) if ".lora_A." in name]
    assert (material.facts["standIn"], len(adapted)) == (False, 2 * len(TARGETS.get(family, ("q_proj", "v_proj"))))


@pytest.mark.parametrize("shards", [1, 3])
def test_weights_lie_in_as_many_files_as_wanted(shards: int) -> None:
    files = causal_lm(shards=shards)
    weights = {name: parse_safetensors(content) for name, content in files.items() if name.endswith(".safetensors")}
    assert len(weights) == shards
    if shards > 1:
        index = json.loads(files["model.safetensors.index.json"])
        assert index["weight_map"] == {tensor: name for name, tensors in weights.items() for tensor in tensors}
    assert causal_lm(seed=12)["config.json"] == files["config.json"]
    assert parse_safetensors(causal_lm(shards=1, seed=12)["model.safetensors"]) == parse_safetensors(
        causal_lm(shards=1)["model.safetensors"]
    )
    assert causal_lm(shards=1, seed=12)["model.safetensors"] != causal_lm(shards=1)["model.safetensors"]


def test_a_model_that_a_real_client_fetched_from_the_hub_is_prepared(tmp_path: Path) -> None:
    commit = commit_id("a model")
    with Hub({"org/small-0.5B": {commit: causal_lm(shards=3)}}) as hub, RealClient(tmp_path / "home") as client:
        path = client.call(
            "snapshot_download", endpoint=hub.url, repo_id="org/small-0.5B", cache_dir=str(tmp_path / "cache")
        ).path
        assert {one.name for one in path.iterdir()} == set(causal_lm(shards=3))
        assert len(hub.bodies_asked()) == 3
    assert prepare("lora", seed=7, model=str(path)).facts["learningRate"]


@pytest.mark.torch
@pytest.mark.parametrize("family", FAMILIES)
def test_the_libraries_find_every_tensor_and_the_chat_template(family: Family, tmp_path: Path) -> None:
    """A tensor that is not found would be drawn at random, and each process would have another model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    directory = write(causal_lm(family), tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        loaded: Any = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model, found = loaded
    assert {what: list(names) for what, names in found.items() if names} == {}
    assert model.dtype == torch.bfloat16
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello, fox"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello, fox<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    assert tokenizer.decode(ids[0]) == text
    assert [int(ids[0, 0]), tokenizer.eos_token_id, tokenizer.pad_token_id] == [1, 2, 0]
    assert torch.isfinite(model(ids).logits).all()
