"""Models of other families: made here by the real library, tiny and random, prepared on the host and trained as a leg does it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save_file

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.base import Material
from pytest_glasshouse.workloads.lora import LoraTrainer
from pytest_glasshouse.workloads.lora_material import resolve
from pytest_glasshouse.workloads.lora_model import config_of, layers_of
from pytest_glasshouse.workloads.lora_rehearsal import problem, rehearse, request_for
from pytest_glasshouse.workloads.registry import open_trainer, prepare

Mapped = Callable[[Mapping[str, bytes]], dict[str, memoryview]]
MakeModel = Callable[..., Path]

_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
#: What makes a tiny model of a family, and the names of the layers that such a row adapts.
FAMILIES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "llama": ({"model_type": "llama", **_SIZES}, ("q_proj", "v_proj")),
    "phi3": ({"model_type": "phi3", **_SIZES, "pad_token_id": 0}, ("qkv_proj",)),
    "opt": (
        {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "layerdrop": 0.2},
        ("q_proj", "v_proj"),
    ),
    "gpt2": ({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, ("c_attn",)),
    "gpt2-mlp": ({"model_type": "gpt2", "n_embd": 32, "n_layer": 11, "n_head": 4, "n_positions": 128}, ("c_attn", "c_proj")),
    "gemma": ({"model_type": "gemma", **_SIZES, "num_key_value_heads": 1, "head_dim": 16}, ("q_proj", "v_proj")),
    "gemma2": ({"model_type": "gemma2", **_SIZES, "head_dim": 16}, ("q_proj", "v_proj")),
    "qwen3": ({"model_type": "qwen3", **_SIZES, "head_dim": 16}, ("k_proj", "o_proj", "q_proj", "v_proj")),
    "gpt_neox": ({"model_type": "gpt_neox", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}, ("query_key_value",)),
}  # fmt: skip


@pytest.fixture(scope="session")
def make_model(lora_base: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """A directory with a random model of such a config, and the stand-in's tokenizer."""

    def make(config: Mapping[str, Any], *, shard: str = "1GB", headless: bool = False) -> Path:
        import torch
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        directory = tmp_path_factory.mktemp("model")
        made = AutoConfig.for_model(**{"vocab_size": 768, "max_position_embeddings": 128, **config})
        with torch.random.fork_rng():
            torch.manual_seed(11)
            auto: Any = AutoModel if headless else AutoModelForCausalLM
            model = auto.from_config(made, dtype=torch.bfloat16)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.save_pretrained(directory, max_shard_size=shard)
        shutil.copy(lora_base / "tokenizer.json", directory)
        (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
        return directory

    return make


def trained(material: Material, directory: Path, mapped: Mapped) -> tuple[list[str], dict[str, Any], LoraTrainer]:
    """What a leg does: prologue, steps in an order of its own, export."""
    trainer = open_trainer("lora", mapped(material.parts), base_dir=directory, device="cpu")
    assert isinstance(trainer, LoraTrainer)
    assert trainer.initial_sha256() == material.initial_sha256
    losses = trainer.prologue(4)
    trainer.reset(5)
    trainer.step()
    trainer.check()
    return losses, load(trainer.export()), trainer


@pytest.mark.torch
@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_each_family_is_prepared_without_torch_and_trains(family: str, make_model: MakeModel, mapped: Mapped) -> None:
    """The adapter drawn from the files' heads is exactly what peft makes of the loaded model, and both legs see the same losses."""
    config, targets = FAMILIES[family]
    directory = make_model(config)
    material = prepare("lora", seed=7, model=str(directory), rank=3, targets=targets)
    initial = load(material.parts["initial"])
    layers = len([name for name in initial if ".lora_A." in name])
    assert layers >= len(targets)
    assert {tensor.shape[0] for name, tensor in initial.items() if ".lora_A." in name} == {3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns where its setting does not match the layout of the weights
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        first, adapter, trainer = trained(material, directory, mapped)
        second, _, _ = trained(material, directory, mapped)
    assert first == second, "what one leg drops by chance, the other does not"
    assert all(np.isfinite(float(loss)) for loss in first)
    assert adapter.keys() == initial.keys()
    moved = [name for name in adapter if not np.array_equal(adapter[name], initial[name])]
    assert len([name for name in moved if ".lora_B." in name]) == layers
    assert trainer.facts()["trainableParameters"] == sum(tensor.size for tensor in initial.values())
    trainer.close()


def test_a_model_type_that_is_no_string_is_ignored(lora_base: Path, tmp_path: Path) -> None:
    """The libraries report it when they build the model; here it ended in a traceback."""
    directory = shutil.copytree(lora_base, tmp_path / "model")
    changed(directory, "config.json", model_type=["qwen2"])
    assert prepare("lora", seed=7, model=str(directory)).facts["standIn"] is False


@pytest.mark.torch
def test_layers_are_ordered_by_number_and_not_alphabetically(make_model: MakeModel) -> None:
    """The adapter of a seed is drawn layer by layer: published rows keep theirs."""
    directory = make_model(FAMILIES["gpt2-mlp"][0])
    base = resolve(str(directory))
    layers = layers_of(base, config_of(base, sequence_tokens=64), ("c_attn", "c_proj"))
    places = ("attn.c_attn", "attn.c_proj", "mlp.c_proj")
    assert [layer.path for layer in layers] == [f"transformer.h.{n}.{place}" for n in range(11) for place in places]
    assert [(layer.inputs, layer.outputs) for layer in layers[:3]] == [(32, 96), (32, 32), (128, 32)]


@pytest.mark.torch
def test_weights_in_several_files_and_files_without_a_head_are_read_as_loading_reads_them(
    make_model: MakeModel, mapped: Mapped
) -> None:
    """GPT-2 is published without its head: its layers have shorter names there than in the model."""
    for config, options in ((FAMILIES["llama"][0], {"shard": "40KB"}), (FAMILIES["gpt2"][0], {"headless": True})):
        directory = make_model(config, **options)
        if options.get("headless"):
            content = json.loads((directory / "config.json").read_text())
            (directory / "config.json").write_text(json.dumps({**content, "architectures": ["GPT2LMHeadModel"]}))
            assert not any(
                name.startswith("transformer.") for name in parse_safetensors((directory / "model.safetensors").read_bytes())
            )
        else:
            assert len(list(directory.glob("*.safetensors"))) > 1
        targets = ("c_attn",) if options.get("headless") else None
        material = prepare("lora", seed=7, model=str(directory), targets=targets)
        trained(material, directory, mapped)[2].close()


def changed(directory: Path, name: str, **fields: Any) -> None:
    path = directory / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


TRUNCATION = {"direction": "Right", "max_length": 20, "strategy": "LongestFirst", "stride": 0}
PADDING = {
    "strategy": {"Fixed": 512},
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "<|endoftext|>",
}


def _only(directory: Path, *, weights: str) -> object:
    return (directory / "model.safetensors").rename(directory / weights)


def _cut_off(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def _half_there(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def _retyped(directory: Path) -> None:
    path = directory / "model.safetensors"
    content = path.read_bytes()
    tensors = {
        name: (np.frombuffer(content[entry.start : entry.end], dtype="<u2").astype("<u4") << 16).view("<f4").reshape(entry.shape)
        for name, entry in parse_safetensors(content).items()
    }
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    save_file({**tensors, name: tensors[name].astype(np.int8)}, path)


def _grown(directory: Path) -> None:
    path = directory / "tokenizer.json"
    content = json.loads(path.read_text())
    added = {
        "id": 768,
        "content": "<more>",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    path.write_text(json.dumps({**content, "added_tokens": [*content["added_tokens"], added]}))


#: What may be wrong with a model, and the message for it.
WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "bin-only": (lambda d: _only(d, weights="pytorch_model.bin"), r"expected weights in \*\.safetensors; saw pytorch_model\.bin"),
    "gguf-only": (lambda d: _only(d, weights="model-q4.gguf"), r"expected weights in \*\.safetensors; saw model-q4\.gguf"),
    "another-name": (lambda d: _only(d, weights="weights.safetensors"), r"expected model\.safetensors or model\.safetensors\.index"),
    "cut-off": (_cut_off, r"model\.safetensors: expected a whole safetensors file; .*tensors end at byte"),
    "no-tensors": (lambda d: (d / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "expected a whole safetensors"),
    "empty": (lambda d: (d / "model.safetensors").write_bytes(b""), "expected a whole safetensors"),
    "half-there": (_half_there, "names weights that are not in the directory"),
    "index-of-nothing": (lambda d: (_only(d, weights="a.safetensors"), (d / "model.safetensors.index.json").write_text("[]")), "index.json"),
    "quantized-layer": (_retyped, "q_proj: expected a matrix of floats.*saw I8"),
    "quantized": (lambda d: changed(d, "config.json", quantization_config={"bits": 4}), "config.json says that they are quantized"),
    "not-causal": (lambda d: changed(d, "config.json", architectures=["BertForMaskedLM"]), "expected a causal language model .* saw BertForMaskedLM"),
    "config-no-object": (lambda d: (d / "config.json").write_text("[1]"), "config.json: expected a JSON object"),
    "config-no-json": (lambda d: (d / "config.json").write_text("{"), "config.json: expected a JSON object"),
    "config-deep": (lambda d: (d / "config.json").write_text("[" * 100_000), "config.json: expected a JSON object"),
    "index-deep": (
        lambda d: (_only(d, weights="a.safetensors"), (d / "model.safetensors.index.json").write_text("[" * 100_000)), "not JSON",
    ),
    "index-of-lists": (
        lambda d: (_only(d, weights="a.safetensors"), (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": [1]}}')),
        "names weights that are not in the directory",
    ),
    "too-short": (lambda d: changed(d, "config.json", max_position_embeddings=32), "expected room for the 64 tokens of a sequence; saw 32"),
    "truncation": (lambda d: changed(d, "tokenizer.json", truncation=TRUNCATION), "tokenizer.json: expected no saved truncation; saw .*max_length 20"),
    "padding": (lambda d: changed(d, "tokenizer.json", padding=PADDING), "tokenizer.json: expected no saved padding"),
    "tokenizer-no-json": (lambda d: (d / "tokenizer.json").write_text("{}"), "tokenizer.json: cannot be read"),
    "larger-tokenizer": (_grown, "token ids up to 768, and config.json says vocab_size 768"),
    "smaller-vocabulary": (lambda d: changed(d, "config.json", vocab_size=700), "token ids up to 767, and config.json says vocab_size 700"),
    "larger-vocabulary": (lambda d: changed(d, "config.json", vocab_size=800), "embed_tokens to have 800 rows, as config.json says; saw 768"),
    "no-vocabulary": (lambda d: changed(d, "config.json", vocab_size=None), "expected vocab_size; not there"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_fault_of_a_model_is_one_sentence_that_names_it(what: str, lora_base: Path, tmp_path: Path) -> None:
    """Each cost a boot, and some of them trained on something else in silence."""
    directory = shutil.copytree(lora_base, tmp_path / "model")
    spoil, content = WRONG[what]
    spoil(directory)
    with pytest.raises(ConfigurationError, match=content) as caught:
        prepare("lora", seed=7, model=str(directory))
    assert str(caught.value).startswith(("model model", f"model directory {directory}"))
    assert "\n" not in str(caught.value)


@pytest.mark.torch
def test_faults_only_the_libraries_find_are_reported_before_renting(make_model: MakeModel, lora_base: Path) -> None:
    """Some faults show in no file's header: an architecture they do not know, layers under other names, another tokenizer."""
    gpt2 = make_model(FAMILIES["gpt2"][0])
    material = prepare("lora", seed=7, model=str(gpt2), targets=("c_attn",))
    assert material.base is not None
    assert material.base.directory is not None
    request = request_for(material, material.base.directory)
    assert problem(request) == ""
    changed(gpt2, "config.json", n_layer=1)
    assert "2 adapter tensors do not match the layers in its files, first base_model.model.transformer.h.1." in problem(request)
    changed(gpt2, "config.json", n_layer=2, n_inner=24)
    assert "mlp.c_fc.bias has shape [" in problem(request)
    changed(gpt2, "config.json", n_inner=None)
    changed(gpt2, "tokenizer.json", pre_tokenizer=None)
    assert "gives other ids than the sealed tokens" in problem(request)
    changed(gpt2, "config.json", model_type="nobody-knows")
    changed(gpt2, "tokenizer.json", pre_tokenizer=json.loads((lora_base / "tokenizer.json").read_text())["pre_tokenizer"])
    with pytest.raises(ConfigurationError, match=r"cannot be trained with the libraries of this machine: .*nobody-knows"):
        rehearse(material)


@pytest.mark.torch
def test_layers_that_a_model_does_not_have_are_named_with_those_it_has(make_model: MakeModel) -> None:
    phi, gpt2 = (make_model(FAMILIES[name][0]) for name in ("phi3", "gpt2"))
    with pytest.raises(ConfigurationError, match=r"\(phi3\): no layer is called q_proj or v_proj.* it has down_proj, .*qkv_proj"):
        prepare("lora", seed=7, model=str(phi))
    with pytest.raises(ConfigurationError, match=r"\(gpt2\): no layer is called q_proj or v_proj.* it has c_attn, c_fc, c_proj"):
        prepare("lora", seed=7, model=str(gpt2))
    for target in ("wte", "lm_head", "ln_1", "attn"):
        with pytest.raises(ConfigurationError, match=f"no layer is called {target}|{target}: expected a matrix"):
            prepare("lora", seed=7, model=str(gpt2), targets=("c_attn", target))


def test_a_cached_model_with_weights_of_another_form_is_refused_and_no_stand_in_is_trained(
    lora_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--Nobody--Pickled-7B"
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = shutil.copytree(lora_base, cached / "snapshots" / revision)
    _only(snapshot, weights="pytorch_model.bin")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r"saw pytorch_model\.bin"):
        prepare("lora", seed=7, model="Nobody/Pickled-7B")


def test_a_model_is_read_once_and_again_when_it_changed(lora_base: Path, tmp_path: Path) -> None:
    """It is prepared before anything is rented and again when its row runs; gigabytes are not read twice for that."""
    from pytest_glasshouse.workloads import lora_material

    directory = shutil.copytree(lora_base, tmp_path / "model")
    before = prepare("lora", seed=7, model=str(directory)).base
    assert before is not None
    lora_material._LISTED.update({key: before.files[:1] for key, value in lora_material._LISTED.items() if value == before.files})
    again = prepare("lora", seed=7, model=str(directory)).base
    assert again is not None
    assert again.files == before.files[:1]
    (directory / "notes.txt").write_text("another file that loading reads")
    third = prepare("lora", seed=7, model=str(directory)).base
    assert third is not None
    assert third.files not in (before.files[:1], before.files)
    lora_material._LISTED.clear()
