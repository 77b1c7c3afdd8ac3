"""Every trainer with `device="cuda"`, on a device that behaves like CUDA: the same losses, and nothing left there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load

from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.ring import copy_material_to_device
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.base import Material, Trainer
from pytest_glasshouse.workloads.registry import open_trainer, prepare
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch

Mapped = Callable[[Mapping[str, bytes]], dict[str, memoryview]]


class OnDevice:
    """A trainer whose parts came through the ring, as a leg's do."""

    def __init__(self, workload: str, material: Material, base_dir: Path | None, mapped: Mapped) -> None:
        content = {**material.parts, **{name: bytes(part) for name, part in material.sealed.items() if isinstance(part, bytes)}}
        self.parts = copy_material_to_device(mapped(content), TorchMemory("cuda"))
        self.trainer: Any = open_trainer(workload, self.parts, base_dir=base_dir, device="cuda")

    def close(self) -> None:
        self.trainer.close()
        for part in self.parts.values():
            if isinstance(part, Resident):
                part.close()
        TorchMemory("cuda").release()


def needles(material: Material) -> dict[str, list[bytes]]:
    """Rows of the data and pieces of the weights."""
    data = load(material.parts.get("data") or material.parts["tokens"])
    rows = data.get("features", data.get("ids"))
    assert rows is not None
    return {
        "row": [row.tobytes()[:64] for row in rows[:64]],
        "weights": [each.tobytes()[:64] for each in load(material.parts["initial"]).values() if each.any()],
    }


def found(gpu: FakeCuda, material: Material) -> dict[str, int]:
    content = gpu.content()
    return {kind: sum(needle in content for needle in each) for kind, each in needles(material).items()}


def test_mlp_trains_on_it_as_on_the_cpu_and_leaves_nothing(gpu: FakeCuda, mlp_material: Material, mapped: Mapped) -> None:
    ran = OnDevice("mlp", mlp_material, None, mapped)
    ordinary: Trainer = open_trainer("mlp", mapped(mlp_material.parts), device="cpu")
    assert ran.trainer.initial_sha256() == mlp_material.initial_sha256
    assert ran.trainer.prologue(2) == ordinary.prologue(2)
    assert [bytes(row) for row in ran.trainer.last_batch()] == [bytes(row) for row in ordinary.last_batch()]
    ran.trainer.reset(1)
    ran.trainer.step()
    ran.trainer.synchronize()
    assert load(ran.trainer.export()).keys() == load(mlp_material.parts["initial"]).keys()
    facts = ran.trainer.facts()
    assert (facts["device"], facts["peakMemorySource"]) == ("Fake CUDA", "cuda max_memory_allocated")
    assert facts["peakMemoryBytes"] > len(mlp_material.parts["data"])
    assert all(found(gpu, mlp_material).values())
    ran.close()
    gc.collect()
    assert not any(gpu.content())


def test_lora_trains_on_it_as_on_the_cpu_and_leaves_nothing(
    gpu: FakeCuda, lora_material: Material, lora_base: Path, mapped: Mapped
) -> None:
    ran = OnDevice("lora", lora_material, lora_base, mapped)
    ordinary: Trainer = open_trainer("lora", mapped(lora_material.parts), base_dir=lora_base, device="cpu")
    _train_and_leave(gpu, ran, ordinary, lora_material)
    assert found(gpu, lora_material) == {"row": 0, "weights": 0}


def test_a_sealed_model_trains_on_it_from_its_parts_and_leaves_nothing(gpu: FakeCuda, mapped: Mapped) -> None:
    """The model itself is secret there: not a byte may be left, and on the device it may be once only."""
    material = prepare("lora", seed=7, model="Nobody/Stand-In-0.5B-Nowhere", sealed=True)
    content = {**material.parts, **{name: bytes(part) for name, part in material.sealed.items() if isinstance(part, bytes)}}
    ran = OnDevice("lora", material, None, mapped)
    part = content["weights.0"]
    weights = [part[entry.start : entry.end] for entry in parse_safetensors(memoryview(part)).values()]
    assert max(gpu.content().count(each[:64]) for each in weights if len({*each}) > 8) == 1
    _train_and_leave(gpu, ran, open_trainer("lora", mapped(content), device="cpu"), material)
    assert not any(gpu.content())


def _train_and_leave(gpu: FakeCuda, ran: OnDevice, ordinary: Trainer, material: Material) -> None:
    assert ran.trainer.initial_sha256() == material.initial_sha256
    assert ran.trainer.prologue(2) == ordinary.prologue(2)
    ran.trainer.reset(1)
    ran.trainer.step()
    ran.trainer.synchronize()
    assert all(found(gpu, material).values())
    ran.close()
    gc.collect()
