"""A base model in the package: built from memory, with the losses of the same model in a directory, and nothing left of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.package import is_confidential, is_part_name
from pytest_glasshouse.wire.part_file import PartFile
from pytest_glasshouse.workloads.base import Material
from pytest_glasshouse.workloads.registry import open_trainer, prepare
from pytest_glasshouse.workloads.resident import Resident
from tests.loopback.causal_models import TARGETS, causal_lm

Mapped = Callable[[Mapping[str, bytes]], dict[str, memoryview]]


def a_model(directory: Path, family: str = "qwen2") -> Path:
    directory.mkdir()
    for name, content in causal_lm(family).items():
        (directory / name).write_bytes(content)
    return directory


def whole(material: Material) -> dict[str, bytes]:
    """What a leg gets when it has opened the package."""
    found = dict(material.parts)
    for name, source in material.sealed.items():
        if isinstance(source, bytes):
            found[name] = source
        else:
            with source.reading() as take:
                found[name] = bytes(take(len(source)))
    return found


def test_every_file_that_loading_reads_is_a_part_and_is_not_read_yet(tmp_path: Path) -> None:
    directory = a_model(tmp_path / "model")
    material = prepare("lora", seed=7, model=str(directory), sealed=True)
    names = json.loads(material.parts["config"])["base"]["parts"]
    shards = sorted(path.name for path in directory.glob("*.safetensors"))
    assert len(shards) > 1
    assert sorted(names) == sorted(["config.json", "tokenizer.json", *shards])
    assert {name: material.sealed[part] for name, part in names.items()} == {
        name: PartFile.of(directory / name) for name in names
    }
    assert all(is_part_name(part) and is_confidential(part) for part in material.sealed)
    assert not any(is_confidential(part) for part in material.parts)
    assert prepare("lora", seed=7, model=str(directory)).sealed == {}


@pytest.mark.torch
@pytest.mark.parametrize("family", ["qwen2", "llama", "phi3"])
def test_a_sealed_model_trains_as_the_same_model_in_a_directory_does(family: str, tmp_path: Path, mapped: Mapped) -> None:
    """Bit by bit, on views of the opened package, which is free to be wiped and unmapped afterwards."""
    import torch

    directory = a_model(tmp_path / "model", family)
    targets = TARGETS.get(family)  # type: ignore[call-overload]
    pinned = prepare("lora", seed=7, model=str(directory), targets=targets)
    material = prepare("lora", seed=7, model=str(directory), targets=targets, sealed=True)
    first = open_trainer("lora", mapped(pinned.parts), base_dir=directory, device="cpu")
    expected = first.prologue(4)
    first.close()

    parts = mapped(whole(material))
    shutil.rmtree(directory)
    trainer = open_trainer("lora", parts, device="cpu")
    assert trainer.initial_sha256() == material.initial_sha256
    assert trainer.prologue(4) == expected
    spans = [torch.frombuffer(part, dtype=torch.uint8) for part in parts.values()]
    model = trainer._model  # type: ignore[attr-defined]
    weights = [each for name, each in model.named_parameters() if "lora_" not in name]
    within = [any(s.data_ptr() <= each.data_ptr() < s.data_ptr() + s.numel() for s in spans) for each in weights]
    assert weights
    assert all(within)
    del model, weights, spans
    trainer.close()
    for view in parts.values():
        mapping: Any = view.obj
        view.release()
        mapping.close()


@pytest.mark.torch
def test_a_model_on_the_device_is_viewed_where_it_lies_and_not_copied_to_the_host(tmp_path: Path, mapped: Mapped) -> None:
    """As on a GPU, where the host never holds the weights: the CPU plays the device."""
    import torch

    material = prepare("lora", seed=7, model=str(a_model(tmp_path / "model")), sealed=True)
    staging = memoryview(bytearray(1 << 16))
    on_host = {name: content for name, content in whole(material).items() if name == "config" or name.startswith("base.")}
    octets = {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8)
        for name, content in whole(material).items()
        if name not in on_host
    }
    parts: Any = {**mapped(on_host), **{name: Resident(each, staging) for name, each in octets.items()}}
    trainer = open_trainer("lora", parts, device="cpu")
    spans = [(each.data_ptr(), each.data_ptr() + each.numel()) for name, each in octets.items() if name.startswith("weights.")]
    model = trainer._model  # type: ignore[attr-defined]
    weights = [each.data_ptr() for name, each in model.named_parameters() if "lora_" not in name]
    assert weights
    assert all(any(start <= at < end for start, end in spans) for at in weights)
    expected = open_trainer("lora", mapped(whole(material)), device="cpu").prologue(2)
    assert trainer.prologue(2) == expected


@pytest.mark.torch
def test_weights_of_another_type_of_number_are_copied_and_the_copies_zeroed(
    tmp_path: Path, lora_base: Path, mapped: Mapped
) -> None:
    from safetensors.torch import load_file, save_file

    directory = a_model(tmp_path / "model")
    for path in directory.glob("*.safetensors"):
        save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path)
    parts = mapped(whole(prepare("lora", seed=7, model=str(directory), sealed=True)))
    trainer = open_trainer("lora", parts, device="cpu")
    copies = [each for each in trainer._copied if each.dim() == 2]  # type: ignore[attr-defined]
    assert copies
    assert all(bool(each.any()) for each in copies)
    trainer.close()
    assert not any(bool(each.any()) for each in copies)


@pytest.mark.torch
def test_a_package_without_all_of_the_models_weights_is_refused(tmp_path: Path, mapped: Mapped) -> None:
    """The library would draw what is missing at random and train on."""
    material = prepare("lora", seed=7, model=str(a_model(tmp_path / "model")), sealed=True)
    config = json.loads(material.parts["config"])
    last = max(name for name in config["base"]["parts"] if name.endswith(".safetensors"))
    del config["base"]["parts"][last]
    parts = {**whole(material), "config": canonical(config)}
    with pytest.raises(IntegrityError, match=r"base: the package has no weights for \d+ of the model's tensors"):
        open_trainer("lora", mapped(parts), device="cpu")


@pytest.mark.torch
def test_a_model_is_either_in_the_package_or_in_a_directory(tmp_path: Path, mapped: Mapped) -> None:
    directory = a_model(tmp_path / "model")
    sealed, pinned = (prepare("lora", seed=7, model=str(directory), sealed=each) for each in (True, False))
    with pytest.raises(IntegrityError, match="either in the package or in a directory"):
        open_trainer("lora", mapped(whole(sealed)), base_dir=directory, device="cpu")
    with pytest.raises(IntegrityError, match="either in the package or in a directory"):
        open_trainer("lora", mapped(pinned.parts), device="cpu")


@pytest.mark.torch
def test_another_tokenizer_than_the_hosts_is_refused(tmp_path: Path, mapped: Mapped) -> None:
    material = prepare("lora", seed=7, model=str(a_model(tmp_path / "model")), sealed=True)
    parts = whole(material)
    tokenizer = json.loads(parts["base.tokenizer"])
    tokenizer["pre_tokenizer"] = None
    with pytest.raises(IntegrityError, match="tokenizer"):
        open_trainer("lora", mapped({**parts, "base.tokenizer": json.dumps(tokenizer).encode()}), device="cpu")


def test_the_stand_in_can_be_sealed_too() -> None:
    """So that a dry run of a sealed row needs no model."""
    material = prepare("lora", seed=7, model="Nobody/Stand-In-0.5B-Nowhere", sealed=True)
    assert material.base is not None
    assert sorted(material.sealed) == ["base.config", "base.tokenizer", "weights.0"]
    assert material.sealed["weights.0"] == material.base.content["model.safetensors"]


def test_a_model_that_only_a_hub_has_cannot_be_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner would have to download it first: nobody else may make the package."""
    from dataclasses import replace

    from pytest_glasshouse.workloads import lora_material
    from pytest_glasshouse.workloads.lora_model import tensors_of

    here = lora_material.resolve(str(a_model(tmp_path / "model")))
    content = {name: (tmp_path / "model" / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    there = replace(here, directory=None, content=content, weights=tensors_of(here))
    monkeypatch.setattr(lora_material, "resolve", lambda _model, **_how: there)
    assert prepare("lora", seed=7, model="Org/Model").sealed == {}
    with pytest.raises(ConfigurationError, match=r"expected its weights on this machine.*hf download"):
        prepare("lora", seed=7, model="Org/Model", sealed=True)
