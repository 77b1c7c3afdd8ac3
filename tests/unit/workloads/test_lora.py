"""The adapter on a causal LM: through the real libraries, on the stand-in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.workloads.lora import LoraTrainer, adapted
from pytest_glasshouse.workloads.lora_material import LORA
from pytest_glasshouse.workloads.registry import open_trainer

pytestmark = pytest.mark.torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_glasshouse.workloads.base import Material

    Mapped = Callable[[Mapping[str, bytes]], dict[str, memoryview]]

QWEN_0_5B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151_936,
    "tie_word_embeddings": True,
}
QWEN_7B: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "tie_word_embeddings": False,
}


class Noting(LoraTrainer):
    """Notes every sequence that it is to train on, and trains on none."""

    def _train_on(self, ids: Any) -> None:
        self.sequences = [*getattr(self, "sequences", []), tuple(ids.tolist())]


class Watching(LoraTrainer):
    """Notes where each sequence that it trains on lies."""

    def _train_on(self, ids: Any) -> None:
        self.addresses = [*getattr(self, "addresses", []), ids.data_ptr()]
        super()._train_on(ids)


def changed_config(material: Material, **optimizer: str) -> bytes:
    config = json.loads(material.parts["config"])
    config["optimizer"].update(optimizer)
    return canonical(config)


def parameters(config: dict[str, Any]) -> tuple[int, int]:
    """(trainable, total) with the adapter, on the meta device: no weights are made."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM  # its methods are untyped
    with torch.device("meta"):
        model = adapted(auto.from_config(AutoConfig.for_model(**config), dtype=torch.bfloat16), LORA)
    sizes = [(each.numel(), each.requires_grad) for each in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def test_parameters_of_the_small_model_come_out_as_published() -> None:
    trainable, _ = parameters(QWEN_0_5B)
    assert trainable == 270_336


def test_parameters_of_the_large_model_come_out_as_published() -> None:
    assert parameters(QWEN_7B) == (1_261_568, 7_616_878_080)


def test_loss_goes_down(mapped: Mapped, lora_material: Material, lora_base: Path) -> None:
    """At a hundred times the row's rate: at its own, sequences differ more than a few steps move the loss."""
    few = 16
    parts = {
        **lora_material.parts,
        "config": changed_config(lora_material, learningRate="0.005"),
        "tokens": save({"ids": load(lora_material.parts["tokens"])["ids"][:few].copy()}),
    }
    trainer = LoraTrainer(mapped(parts), base_dir=lora_base, device="cpu")
    losses = [float(loss) for loss in trainer.prologue(3 * few)]
    assert np.mean(losses[2 * few :]) < np.mean(losses[:few]) - 0.1


def test_a_pass_takes_every_sequence_once_in_the_leg_s_own_order(
    mapped: Mapped, lora_material: Material, lora_base: Path
) -> None:
    every = [tuple(row) for row in load(lora_material.parts["tokens"])["ids"].tolist()]
    seen = []
    for order_seed in (1, 2):
        trainer = Noting(mapped(lora_material.parts), base_dir=lora_base, device="cpu")
        trainer.reset(order_seed)
        for _ in every:
            trainer.step()
        seen.append(trainer.sequences)
    assert sorted(every) == sorted(seen[0]) == sorted(seen[1])
    assert seen[0] != seen[1]
    assert {len(sequence) for sequence in every} == {64}


def test_sequences_are_used_without_a_copy(mapped: Mapped, lora_material: Material, lora_base: Path) -> None:
    """A copy of the last batch would outlive the arena's wiping."""
    import torch

    views = mapped(lora_material.parts)
    trainer = Watching(views, base_dir=lora_base, device="cpu")
    trainer.step()
    begins = torch.frombuffer(views["tokens"], dtype=torch.uint8).data_ptr()
    assert begins <= trainer.addresses[0] < begins + len(views["tokens"])


def test_the_model_is_bfloat16_and_only_the_adapter_is_trained(mapped: Mapped, lora_material: Material, lora_base: Path) -> None:
    trainer = LoraTrainer(mapped(lora_material.parts), base_dir=lora_base, device="cpu")
    facts = trainer.facts()
    # 2 layers x rank 4 x (hidden in + out), for q (64 -> 64) and v (64 -> 32).
    assert facts["trainableParameters"] == 2 * 4 * ((64 + 64) + (64 + 32))
    assert (facts["dtype"], facts["adapterDtype"]) == ("bfloat16", "float32")


def test_another_tokenizer_than_the_sealed_ids_were_made_with_is_refused(
    mapped: Mapped, lora_material: Material, lora_base: Path
) -> None:
    config = json.loads(lora_material.parts["config"])
    config["probe"]["ids"] = config["probe"]["ids"][::-1]
    with pytest.raises(IntegrityError) as refused:
        LoraTrainer(mapped({**lora_material.parts, "config": canonical(config)}), base_dir=lora_base, device="cpu")
    assert refused.value.reason == "tokenizer"


@pytest.mark.parametrize("wrong", [768, -1], ids=["beyond", "negative"])
def test_ids_outside_the_vocabulary_are_refused(mapped: Mapped, lora_material: Material, lora_base: Path, wrong: int) -> None:
    ids = load(lora_material.parts["tokens"])["ids"].copy()
    ids[5, 5] = wrong
    with pytest.raises(IntegrityError, match="vocabulary"):
        LoraTrainer(mapped({**lora_material.parts, "tokens": save({"ids": ids})}), base_dir=lora_base, device="cpu")


def test_tokens_of_another_width_are_refused(mapped: Mapped, lora_material: Material, lora_base: Path) -> None:
    ids = load(lora_material.parts["tokens"])["ids"][:, :63].copy()
    with pytest.raises(IntegrityError, match="tokens"):
        LoraTrainer(mapped({**lora_material.parts, "tokens": save({"ids": ids})}), base_dir=lora_base, device="cpu")


def test_lora_without_a_base_model_is_refused(mapped: Mapped, lora_material: Material) -> None:
    with pytest.raises(IntegrityError, match="base model"):
        open_trainer("lora", mapped(lora_material.parts), device="cpu")
