"""Random weights of a named shape: the same bytes on every machine, made piece by piece, in as many files as a real model's."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.plugin.settings import STAND_INS
from pytest_glasshouse.wire.package import SEALED_WEIGHTS
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.model_files import digest_of, listed, listed_content
from pytest_glasshouse.workloads.random_weights import RandomFile
from pytest_glasshouse.workloads.registry import open_trainer, prepare
from pytest_glasshouse.workloads.stand_in import SHAPES, TINY
from tests.loopback.causal_models import write
from tests.unit.workloads.test_sealed_base import Mapped

#: The tiny one's layers as those of the large shapes lie: an output layer of its own, and several files.
IN_SHARDS = replace(TINY, name="in shards", tied=False, largest_file=100_000)


def test_weights_are_the_same_bytes_on_every_machine() -> None:
    """The digests of the large shapes are pinned: whatever changes this one changes those."""
    [tiny] = stand_in.pinned(TINY)
    assert (tiny.name, tiny.size) == ("model.safetensors", 286464)
    assert tiny.sha256 == hashlib.sha256(stand_in.make()["model.safetensors"]).hexdigest()
    assert tiny.sha256 == "5ca730da851b4ead45c894965226f170148a250fc2098f4c4653037b0a314a25"


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="SOAK=1 makes 16 GB of weights")
@pytest.mark.parametrize("name", ["0.5b", "7b"])
def test_pinned_digests_are_those_of_the_weights(name: str) -> None:
    shape = SHAPES[name]
    assert stand_in.pinned(replace(shape, sha256=())) == stand_in.pinned(shape)


SIZES = {"0.5b": (1, 494_032_768, True), "7b": (4, 7_615_616_512, False)}


@pytest.mark.parametrize("name", SIZES)
def test_a_large_shape_has_as_many_parameters_as_its_model(name: str) -> None:
    shape = SHAPES[name]
    files = stand_in.weight_files(shape)
    tensors = {tensor: entry for file in files for tensor, entry in file.entries().items()}
    assert (
        len(files),
        sum((entry.end - entry.start) // 2 for entry in tensors.values()),
        "lm_head.weight" not in tensors,
    ) == SIZES[name]
    assert max(file.size for file in files) <= shape.largest_file + 100_000
    base = stand_in.base("org/model", None, shape, in_guest=True)
    assert {file.name for file in base.files} == {*base.content, *(file.name for file in files)}
    assert (base.stand_in, base.on_host) == (True, False)


def test_the_option_takes_every_shape_and_no_other() -> None:
    assert tuple(SHAPES) == STAND_INS
    with pytest.raises(ConfigurationError, match=r"stand-in '13b': expected one of tiny, 0\.5b, 7b"):
        stand_in.shape_named("13b")


@pytest.mark.parametrize("shape", [TINY, IN_SHARDS], ids=lambda shape: shape.name)
def test_the_files_are_a_model(shape: stand_in.StandInShape, tmp_path: Path) -> None:
    content = stand_in.make(shape)
    directory = write(content, tmp_path / "model")
    here, in_guest = stand_in.base("org/model", None, shape), stand_in.base("org/model", None, shape, in_guest=True)
    assert digest_of(listed(directory)) == here.sha256 == in_guest.sha256
    weights = {name: data for name, data in content.items() if name.endswith(".safetensors")}
    assert (len(weights) > 1) == (shape is IN_SHARDS)
    if len(weights) > 1:
        index = json.loads(content["model.safetensors.index.json"])["weight_map"]
        assert index == {tensor: name for name, data in weights.items() for tensor in parse_safetensors(data)}


@pytest.mark.torch
def test_a_shape_in_several_files_trains(tmp_path: Path, mapped: Mapped) -> None:
    directory = write(stand_in.make(IN_SHARDS), tmp_path / "model")
    trainer = open_trainer("lora", mapped(prepare("lora", seed=7, model=str(directory)).parts), base_dir=directory, device="cpu")
    losses = [float(loss) for loss in trainer.prologue(8)]
    trainer.close()
    # Random weights know nothing: about the entropy of the vocabulary.
    assert all(abs(loss - math.log(IN_SHARDS.vocabulary)) < 1 for loss in losses), losses


def test_a_number_is_neither_zero_nor_large() -> None:
    import numpy as np

    file = RandomFile(
        name="model.safetensors", seed=1, exponent=-7, tensors={"a": (300, 500), "norm": (7,)}, ones=frozenset({"norm"})
    )
    content = b"".join(file.pieces())
    assert len(content) == file.size == len(file)
    numbers = {
        name: (np.frombuffer(content[entry.start : entry.end], dtype="<u2").astype("<u4") << 16).view("<f4")
        for name, entry in parse_safetensors(content).items()
    }
    assert set(numbers["norm"]) == {1.0}
    sizes = abs(numbers["a"])
    assert 2**-7 <= sizes.min() < 2**-6.9
    assert 2**-5.1 < sizes.max() < 2**-5
    assert abs(numbers["a"].mean()) < 1e-4
    assert len(np.unique(numbers["a"])) == 512, "every sign, exponent and fraction that there is"


def test_each_tensor_has_numbers_of_its_own() -> None:
    content = stand_in.make()["model.safetensors"]
    drawn = [content[entry.start : entry.start + 64] for name, entry in parse_safetensors(content).items() if "norm" not in name]
    assert len(set(drawn)) == len(drawn)


def test_a_file_is_read_in_any_pieces_and_never_held_whole() -> None:
    file = RandomFile(name="model.safetensors", seed=1, exponent=-7, tensors={"a": (6000, 5000), "b": (1000,)})
    digest = hashlib.sha256()
    tracemalloc.start()
    try:
        with file.reading() as take:
            for at in range(0, file.size, 1_000_003):
                digest.update(take(min(1_000_003, file.size - at)))
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert digest.hexdigest() == file.sha256()
    assert most < file.size / 2


def test_a_stand_in_that_is_asked_for_replaces_any_model_and_can_be_sealed(lora_base: Path) -> None:
    for model, named in (("Nobody/Known@" + "a" * 40, "Nobody/Known"), (str(lora_base), lora_base.name), ("./no/such", "such")):
        material = prepare("lora", seed=7, model=model, stand_in="tiny", online=True)
        assert material.base is not None
        assert (material.base.model_id, material.base.on_host) == (named, False)
        assert material.base.sha256 == digest_of(listed_content(stand_in.make()))
        assert (material.facts["standIn"], material.facts["standInShape"]) == (True, "tiny")
    sealed = prepare("lora", seed=7, model="Nobody/Known", stand_in="tiny", sealed=True)
    part = sealed.sealed[f"{SEALED_WEIGHTS}0"]
    assert isinstance(part, RandomFile)
    assert part.sha256() == hashlib.sha256(stand_in.make()["model.safetensors"]).hexdigest()
