"""A leg trained again on a GPU: on a device that behaves like CUDA, where there is none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.cli.replay_leg import train_again
from pytest_glasshouse.errors import GlasshouseError

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch

_TASK: Any = {
    "workload": "mlp", "seed": 7, "model": None, "rank": None, "targets": None, "alpha": None, "data": None, "standIn": None,
    "orderSeed": 5, "steps": 3, "checkpoints": [1, 3], "device": "cpu",
}  # fmt: skip


def _task(**changed: Any) -> Any:
    return {**_TASK, **changed}


def test_a_leg_of_a_gpu_is_trained_again_on_that_gpu(gpu: FakeCuda) -> None:
    """Its arithmetic is the CPU's, and it draws its data order as the CPU does: both give the same."""
    on_gpu = train_again(_task(device=gpu.name()))
    assert "synchronize" in gpu.calls
    assert [each[0] for each in on_gpu["checkpoints"]] == [1, 3]
    assert len({each[2] for each in on_gpu["checkpoints"]}) == 2
    on_cpu = train_again(_TASK)
    for ours, theirs in zip(on_gpu["checkpoints"], on_cpu["checkpoints"], strict=True):
        assert float(ours[1]) == pytest.approx(float(theirs[1]), rel=1e-5)


def test_a_leg_of_another_gpu_is_not_trained(gpu: FakeCuda) -> None:
    with pytest.raises(GlasshouseError, match=f"it trained on NVIDIA H100; the GPU here is {gpu.name()}"):
        train_again(_task(device="NVIDIA H100"))


def test_where_torch_has_no_gpu_the_leg_is_not_trained(gpu: FakeCuda) -> None:
    gpu.fails.add("init")
    with pytest.raises(GlasshouseError, match="torch has no GPU here"):
        train_again(_task(device="NVIDIA H100"))
