"""Memory on a device, as the ring needs it: a place, an ordered copy into it, and zeros before it is given back.

Knows torch, imported inside. Refuses to know what is copied. The same class serves the CPU, where a place is ordinary
memory: there it is how the ring is tested without a GPU.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_glasshouse.guest.memory import Arena
    from pytest_glasshouse.workloads.base import DeviceName


class DeviceMemory(Protocol):
    """One device. Copies and zeroes take place in the order they were asked for."""

    def pin(self, arena: Arena) -> bool:
        """Let the device read `arena` without a copy of the driver's; False where it may not."""

    def unpin(self, arena: Arena) -> None:
        """Undo `pin`."""

    def place(self, size: int) -> Any:
        """`size` bytes on the device, holding anything: a flat uint8 tensor."""

    def copy(self, piece: memoryview, place: Any, at: int) -> Callable[[], object]:
        """Begin copying `piece` to `place[at:]`; what is returned waits until it is done."""

    def synchronize(self) -> None:
        """Wait until everything that was asked for is done."""

    def release(self) -> None:
        """Give back what was freed."""


class TorchMemory:
    """A device as torch has it. Everything is on torch's current stream, so that a zero never overtakes a copy."""

    def __init__(self, device: DeviceName) -> None:
        self._device = device

    def pin(self, arena: Arena) -> bool:
        if self._device != "cuda":
            return False
        import torch

        # Registered, not allocated by torch: its pinned allocator would keep freed blocks, and what was in them.
        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        return int(runtime.cudaHostRegister(arena.address, arena.mapped_bytes, 0)) == 0

    def unpin(self, arena: Arena) -> None:
        import torch

        runtime: Any = torch.cuda.cudart()  # type: ignore[no-untyped-call]
        runtime.cudaHostUnregister(arena.address)

    def place(self, size: int) -> Any:
        import torch

        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def copy(self, piece: memoryview, place: Any, at: int) -> Callable[[], object]:
        import torch

        if not piece.nbytes:
            return _at_once
        source = torch.frombuffer(piece, dtype=torch.uint8)
        place[at : at + piece.nbytes].copy_(source, non_blocking=True)
        if self._device != "cuda":
            return _at_once
        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        wait: Callable[[], object] = event.synchronize
        return wait

    def synchronize(self) -> None:
        if self._device == "cuda":
            import torch

            torch.cuda.synchronize()

    def release(self) -> None:
        if self._device == "cuda":
            import torch

            torch.cuda.empty_cache()


def zero_places(memory: DeviceMemory, places: Iterable[Any]) -> None:
    """Zero what is about to be dropped and wait for it. A device that fails at that fails alone: the host is wiped anyway."""
    with contextlib.suppress(RuntimeError):
        for place in places:
            place.zero_()
        memory.synchronize()


def _at_once() -> None:
    """A copy that was done when it was begun."""
