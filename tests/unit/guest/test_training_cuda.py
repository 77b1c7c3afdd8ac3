"""Both legs' training on a device that behaves like CUDA: what is loaded before the first look, and what a failure leaves."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load

from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.ring import copy_material_to_device
from pytest_glasshouse.guest.training import import_training, train
from pytest_glasshouse.workloads.cuda import is_out_of_memory
from pytest_glasshouse.workloads.registry import prepare
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.wire.host_messages import TrainingPlan
    from pytest_glasshouse.workloads.base import Parts
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch


class NoTurns:
    """A leg that trains in one go only has its messages drained."""

    def drain(self) -> None:
        """There are none."""

    def clock_read(self) -> None:
        """Nobody is told."""


def on_device(workload: WorkloadName) -> Parts:
    """A package's parts, on the device; a lora row's model is among them."""
    material = prepare(workload, seed=7, model="Nobody/Stand-In-0.5B-Nowhere", sealed=workload == "lora")
    content = {**material.parts, **material.sealed}
    views = {name: memoryview(bytearray(part)) for name, part in content.items() if isinstance(part, bytes)}
    return copy_material_to_device(views, TorchMemory("cuda"))


def trained(workload: WorkloadName, parts: Parts) -> Any:
    plan: TrainingPlan = {
        "workload": workload, "device": "cuda", "warmup_ns": 0, "target_ns": None, "steps": 2, "order_seed": 3, "base": None,
        "segments": None,
    }  # fmt: skip
    turns: Any = NoTurns()
    ignore: Any = lambda _body: None  # noqa: E731
    return train(plan, parts, base_sha256=None, on_started=ignore, on_progress=ignore, turns=turns)


def closed(parts: Parts) -> None:
    for part in parts.values():
        if isinstance(part, Resident):
            part.close()
    gc.collect()
    TorchMemory("cuda").release()


@pytest.mark.parametrize("workload", ["mlp", "lora"])
def test_every_operation_of_the_training_was_used_once_before_the_first_look(gpu: FakeCuda, workload: WorkloadName) -> None:
    """CUDA loads what an operation needs at its first use: a library that comes with the first attention would count as late."""
    import_training(workload, "cuda")
    before = {*gpu.operations}
    assert not any(gpu.content())
    assert gpu.live_bytes() == 0
    parts = on_device(workload)
    gpu.operations.clear()
    assert trained(workload, parts).body["units"] == 2
    assert gpu.operations - before == set()
    assert len(gpu.operations) > 20
    closed(parts)


def test_nothing_is_trained_where_no_library_is_loaded_late(gpu: FakeCuda) -> None:
    import_training("mlp", "cpu")
    assert (gpu.calls, gpu.operations) == ([], set())


@pytest.mark.parametrize("workload", ["mlp", "lora"])
@pytest.mark.parametrize("allocations", [3, 40, 300])
def test_a_training_that_finds_no_room_leaves_nothing(gpu: FakeCuda, workload: WorkloadName, allocations: int) -> None:
    """While it is opened, and in the middle of a step: what it had until then is held by the frames of the error."""
    parts = on_device(workload)
    rows = load(prepare(workload, seed=7, model="Nobody/Stand-In-0.5B-Nowhere").parts["data" if workload == "mlp" else "tokens"])
    row = rows["features" if workload == "mlp" else "ids"][0].tobytes()
    assert row in gpu.content()
    gpu.allocations_left = allocations
    with pytest.raises(RuntimeError) as raised:
        trained(workload, parts)
    assert is_out_of_memory(raised.value)
    closed(parts)
    assert row not in gpu.content()
    assert not any(gpu.content())
