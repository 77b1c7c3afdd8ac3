"""Both legs' training on a device that behaves like CUDA: what is loaded before the first look, and what a failure leaves."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import pytest
from safetensors.numpy import load

from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.ring import copy_material_to_device
from pytest_glasshouse.guest.training import import_training, train
from pytest_glasshouse.invariants.finding import JudgedInvariant
from pytest_glasshouse.invariants.steps_seen import by_the_gpus_clock
from pytest_glasshouse.workloads.cuda import is_out_of_memory
from pytest_glasshouse.workloads.registry import prepare
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.rows.spec import WorkloadName
    from pytest_glasshouse.wire.host_messages import TrainingPlan
    from pytest_glasshouse.workloads.base import Parts
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch
SECOND, MILLI = 1_000_000_000, 1_000_000


class NoTurns:
    """A leg that trains in one go only has its messages drained."""

    def repeat_with(self, repeat: Any) -> None:
        """Nothing is."""

    def warmed_up(self) -> None:
        """Nothing is repeated."""

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


class InTurns(NoTurns):
    """Gives so many turns; `idle` is called when one is over, and its clock has stopped."""

    def __init__(self, turns: int, idle: Callable[[], object]) -> None:
        self._left, self._idle = turns, idle
        self.repeated: list[list[str]] = []

    def repeat_with(self, repeat: Any) -> None:
        self._repeat = repeat

    def resident(self, **_about: Any) -> None:
        """Nobody waits for it."""

    def wait(self) -> int | None:
        self.repeated.append(self._repeat(2))
        self._left -= 1
        return None if self._left < 0 else self._left + 1

    def done(self, _segment: Any) -> None:
        self._idle()


def in_turns(parts: Parts, idle: Callable[[], object]) -> tuple[Any, InTurns]:
    """An mlp leg of three turns on the device."""
    plan: TrainingPlan = {
        "workload": "mlp", "device": "cuda", "warmup_ns": MILLI, "target_ns": None, "steps": 6, "order_seed": 3, "base": None,
        "segments": {"warmup_limit_ns": MILLI, "washout_ns": MILLI, "segment_ns": None, "segment_steps": 2},
    }  # fmt: skip
    turns, ignore = InTurns(3, idle), lambda _body: None
    body = train(plan, parts, base_sha256=None, on_started=ignore, on_progress=ignore, turns=turns).body
    return body, turns


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


def test_a_leg_that_is_idle_when_its_clock_has_stopped_is_seen_by_the_devices_clock(gpu: FakeCuda) -> None:
    """Nine hundredths of each turn and more, in which the leg neither works nor says so. A second is allowed here for a busy machine."""
    shift = [0]
    gpu.clock_ns = lambda: time.perf_counter_ns() + shift[0]
    parts = on_device("mlp")
    may: Any = {"stretches": 3, "stretches_may_ns": SECOND, "turns_may_ns": SECOND}
    honest, turns = in_turns(parts, lambda: None)
    assert [len(row) for row in honest["gpu_ns"]] == [3, 3, 3]
    assert all(losses == honest["prologue"][:2] for losses in turns.repeated)
    assert sum(honest["batches"]["training"].values()) % 4 == 0
    wash_ns = sum(segment[5] for segment in honest["segments"])
    by_the_gpus_clock("raw", honest, wash_ns=wash_ns, **may)
    idle, _ = in_turns(on_device("mlp"), lambda: shift.__setitem__(0, shift[0] + SECOND))
    with pytest.raises(JudgedInvariant) as judged:
        by_the_gpus_clock("raw", idle, wash_ns=sum(segment[5] for segment in idle["segments"]), **may)
    assert "left 3." in judged.value.reason
    assert "of its turns untimed" in judged.value.reason


def test_a_leg_that_trains_in_one_go_is_timed_by_its_device_too(gpu: FakeCuda) -> None:
    """A clock that is half a minute off is told."""
    parts = on_device("mlp")
    body: Any = trained("mlp", parts).body
    ((steps, stretch, turn),) = body["gpu_ns"]
    assert 0 < steps <= stretch == turn
    may: Any = {"stretches": 1, "wash_ns": 0, "stretches_may_ns": SECOND, "turns_may_ns": SECOND}
    by_the_gpus_clock("raw", body, **may)
    body["elapsed_ns"] += 30 * SECOND
    with pytest.raises(JudgedInvariant, match="clock and its GPU's differ"):
        by_the_gpus_clock("raw", body, **may)


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
