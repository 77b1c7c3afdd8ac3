"""The fake refuses what CUDA refuses and keeps what CUDA keeps: a test on it that passes for another reason shows nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import Arena
from pytest_glasshouse.workloads import cuda

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch


def test_host_and_device_do_not_mix(gpu: FakeCuda) -> None:
    import torch

    there, here = torch.ones(4, device="cuda"), torch.ones(4)
    assert (there.device.type, there.is_cuda, here.to("cuda").device.type) == ("cuda", True, "cuda")
    with pytest.raises(RuntimeError, match="same device"):
        torch.add(there, here)
    with pytest.raises(TypeError, match="can't convert cuda:0"):
        there.numpy()
    assert torch.add(there, here.to("cuda")).cpu().tolist() == [2.0] * 4


def test_a_place_that_the_device_has_not_come_to_has_no_time(gpu: FakeCuda) -> None:
    """A clock that is asked too early would have the leg wait for its device, within its own time."""
    first = gpu.mark()
    gpu.memset(gpu.base, 64)
    second = gpu.mark()
    with pytest.raises(RuntimeError, match="not ready"):
        second.ns_since(first)
    gpu.synchronize()
    assert second.ns_since(first) > 0


def test_a_copy_from_page_locked_memory_is_late_and_another_is_not(gpu: FakeCuda) -> None:
    """What is written to the source before the device was waited for is what arrives: so a slot must not be reused too early."""
    memory, arena = TorchMemory("cuda"), Arena(4096)
    arena.view[:] = b"a" * 4096
    tensor = memory.allocate(8192)
    memory.copy(arena.view, tensor, 0)
    assert memory.pin(arena)
    wait = memory.copy(arena.view, tensor, 4096)
    arena.view[:] = b"b" * 4096
    wait()
    arena.view[:] = b"c" * 4096
    assert bytes(tensor.cpu().numpy()) == b"a" * 4096 + b"b" * 4096
    memory.unpin(arena)


def test_freed_blocks_keep_what_they_held_and_are_given_again(gpu: FakeCuda) -> None:
    import torch

    first = torch.full((1000,), 7, dtype=torch.uint8, device="cuda")
    where = first.data_ptr()
    del first
    again = torch.empty(1000, dtype=torch.uint8, device="cuda")
    assert (again.data_ptr(), int(again[999])) == (where, 7)
    del again
    gpu.empty_cache()
    assert (gpu.segments(), bytes([7]) * 1000 in gpu.content()) == ([], True)


def test_memory_ends_with_the_allocators_own_error(gpu: FakeCuda) -> None:
    import torch

    kept = torch.empty(60 << 20, dtype=torch.uint8, device="cuda")
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        torch.empty(8 << 20, dtype=torch.uint8, device="cuda")
    del kept
    gpu.empty_cache()
    torch.empty(8 << 20, dtype=torch.uint8, device="cuda")


def test_afterwards_there_is_no_cuda_again() -> None:
    import torch

    from tests.fake_cuda import FakeCuda

    before = cuda.CUDA
    with FakeCuda() as gpu:
        assert cuda.CUDA is gpu
    assert cuda.CUDA is before
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, NotImplementedError)):
            torch.ones(4, device="cuda")
