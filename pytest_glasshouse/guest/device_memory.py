"""Device memory as the ring needs it: allocate, copy in order, zero before release.

Imports torch inside functions. The same class serves the CPU, where a tensor is ordinary memory: so the ring is tested
without a GPU.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from pytest_glasshouse.workloads import cuda
from pytest_glasshouse.workloads import device as devices

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_glasshouse.guest.memory import Arena
    from pytest_glasshouse.workloads.base import DeviceName


class DeviceMemory(Protocol):
    """One device. Copies and zeroes take place in the order of the calls."""

    def pin(self, arena: Arena) -> bool:
        """Page-lock `arena`, so that the device reads it without a copy by the driver; whether that worked."""

    def unpin(self, arena: Arena) -> None:
        """Undo `pin`."""

    def require_room(self, size: int) -> None:
        """Raise `OutOfMemoryError` where the device has fewer than `size` bytes free."""

    def allocate(self, size: int) -> Any:
        """`size` uninitialised bytes on the device: a flat uint8 tensor."""

    def copy(self, piece: memoryview, tensor: Any, at: int) -> Callable[[], object]:
        """Begin copying `piece` to `tensor[at:]`; the returned function waits until it is done."""

    def synchronize(self) -> None:
        """Wait until every copy and zero is done."""

    def release(self) -> None:
        """Zero what was freed, and return it to the driver."""


class TorchMemory:
    """A torch device. Everything runs on torch's current stream, so a zero never overtakes a copy."""

    def __init__(self, device: DeviceName) -> None:
        self._device = device

    def pin(self, arena: Arena) -> bool:
        if self._device != "cuda":
            return False
        # Registered, not allocated by torch: its pinned allocator would keep freed blocks with their content.
        return _succeeded(cuda.CUDA.host_register(arena.address, arena.mapped_bytes))

    def unpin(self, arena: Arena) -> None:
        _succeeded(cuda.CUDA.host_unregister(arena.address))

    def require_room(self, size: int) -> None:
        if self._device == "cuda":
            cuda.require_room(size)

    def allocate(self, size: int) -> Any:
        import torch

        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def copy(self, piece: memoryview, tensor: Any, at: int) -> Callable[[], object]:
        import torch

        if not piece.nbytes:
            return _already_done
        source = torch.frombuffer(piece, dtype=torch.uint8)
        tensor[at : at + piece.nbytes].copy_(source, non_blocking=True)
        return cuda.CUDA.record() if self._device == "cuda" else _already_done

    def synchronize(self) -> None:
        devices.synchronize(self._device)

    def release(self) -> None:
        devices.release(self._device)


def _succeeded(status: int) -> bool:
    """Whether a call of CUDA's succeeded. Its error is cleared: the next kernel would report it as its own."""
    if status:
        cuda.CUDA.last_error()
    return status == 0


def zero_tensors(memory: DeviceMemory, tensors: Iterable[Any]) -> None:
    """Zero tensors before they are dropped, and wait. A device error is suppressed: the host's memory must still be wiped."""
    with contextlib.suppress(RuntimeError):
        for tensor in tensors:
            tensor.zero_()
        memory.synchronize()


def _already_done() -> None:
    """Wait for a synchronous copy."""
