"""The one place where torch.cuda and the CUDA runtime are called: what the product asks of a GPU, and nothing else.

`Cuda` is that list. `CUDA` is the one in use; tests put a device of their own in its place (`tests/fake_cuda.py`), so that every
line around it runs where there is no GPU. Nothing in this module but the names of the functions is known to work without one.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

#: The state of a block that a tensor has; every other is free, or will be.
_ALLOCATED = "active_allocated"
#: What CUDA and its libraries say where an allocation failed.
_NO_ROOM = re.compile(r"\b(CUDA|cuda)\w*\b.*\bout of memory\b|\bCU\w+_STATUS_\w*(?<!HOST_)ALLOC(ATION)?_FAILED\b", re.DOTALL)
#: What they say, too, where a handle failed for another reason: then the memory that is left decides.
_NO_HANDLE = re.compile(r"\bCU\w+_STATUS_NOT_INITIALIZED\b")
#: More than a handle and its work space take.
_HANDLE_BYTES = 256 << 20
_OWN_MAPS = Path("/proc/self/maps")


class DeviceMark(Protocol):
    """A place in the work that a device was given."""

    def ns_since(self, before: Any) -> int:
        """The device's time from the mark `before` to this one, in nanoseconds. The device must have come to both."""


class DeviceClock(Protocol):
    """Marks places in the work that a device is given; nothing waits."""

    def mark(self) -> DeviceMark: ...


class Cuda(Protocol):
    """The GPU of this process. What returns a status returns CUDA's: 0 is success."""

    def init(self) -> None:
        """Create the context. Raises `RuntimeError`, also where the device has no room for one."""

    def synchronize(self) -> None:
        """Wait until the device has done all it was given."""

    def record(self) -> Callable[[], object]:
        """Mark this place in the work given so far; the returned function waits until the device has come to it."""

    def mark(self) -> DeviceMark:
        """Mark this place in the work given so far, with the device's own time when it comes there."""

    def generator(self) -> torch.Generator:
        """A generator of random numbers on the device."""

    def segments(self) -> Sequence[Mapping[str, Any]]:
        """What the caching allocator holds: of each segment `address` and `blocks`, of each block `size` and `state`."""

    def drop_workspaces(self) -> None:
        """Give the work space of the linear algebra libraries back to the caching allocator."""

    def empty_cache(self) -> None:
        """Give the caching allocator's free segments back to the driver."""

    def free_bytes(self) -> int:
        """Bytes of the device that nobody has. Creates the context, and raises what `init` raises."""

    def memset(self, address: int, size: int) -> int:
        """Begin zeroing device memory; the status."""

    def host_register(self, address: int, size: int) -> int:
        """Page-lock host memory; the status."""

    def host_unregister(self, address: int) -> int:
        """Undo `host_register`; the status."""

    def last_error(self) -> int:
        """The error that the next kernel launch of this thread would report; forgets it."""

    def name(self) -> str:
        """The device's name."""

    def uuid(self) -> str | None:
        """The device's UUID as NVML writes it, `GPU-...`; None where torch does not tell it."""

    def peak_bytes(self) -> int:
        """The most bytes that tensors took at one time."""


class TorchCuda:
    """torch's CUDA device of this process."""

    def init(self) -> None:
        import torch

        torch.cuda.init()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()

    def synchronize(self) -> None:
        import torch

        torch.cuda.synchronize()

    def record(self) -> Callable[[], object]:
        import torch

        event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        wait: Callable[[], object] = event.synchronize
        return wait

    def mark(self) -> DeviceMark:
        return _Event()

    def generator(self) -> torch.Generator:
        import torch

        return torch.Generator(device="cuda")

    def segments(self) -> Sequence[Mapping[str, Any]]:
        import torch

        found: Sequence[Mapping[str, Any]] = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        here = torch.cuda.current_device()
        return [each for each in found if each["device"] == here]

    def drop_workspaces(self) -> None:
        import torch

        torch._C._cuda_clearCublasWorkspaces()  # noqa: SLF001  (there is no other way)

    def empty_cache(self) -> None:
        import torch

        torch.cuda.empty_cache()

    def free_bytes(self) -> int:
        import torch

        return int(torch.cuda.mem_get_info()[0])

    def memset(self, address: int, size: int) -> int:
        return int(_runtime(_OWN_MAPS).cudaMemset(ctypes.c_void_p(address), ctypes.c_int(0), ctypes.c_size_t(size)))

    def host_register(self, address: int, size: int) -> int:
        return int(_runtime(_OWN_MAPS).cudaHostRegister(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_uint(0)))

    def host_unregister(self, address: int) -> int:
        return int(_runtime(_OWN_MAPS).cudaHostUnregister(ctypes.c_void_p(address)))

    def last_error(self) -> int:
        # torch offers no way to it, and the error would fail the next kernel that torch launches, whatever that is.
        return int(_runtime(_OWN_MAPS).cudaGetLastError())

    def name(self) -> str:
        import torch

        return str(torch.cuda.get_device_name())

    def uuid(self) -> str | None:
        import torch

        bare = str(getattr(torch.cuda.get_device_properties(torch.cuda.current_device()), "uuid", ""))
        return f"GPU-{bare.lower().removeprefix('gpu-')}" if bare else None

    def peak_bytes(self) -> int:
        import torch

        return int(torch.cuda.max_memory_allocated())


class _Event:
    """An event of CUDA: the device notes its own time, and the host waits for nothing."""

    def __init__(self) -> None:
        import torch

        self.event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.event.record()

    def ns_since(self, before: _Event) -> int:
        return int(before.event.elapsed_time(self.event) * 1_000_000)


CUDA: Cuda = TorchCuda()


def clock_of(device: str) -> DeviceClock | None:
    """The clock of the device that a leg trains on; None for the CPU, whose clock is the leg's own."""
    return CUDA if device == "cuda" else None


class OutOfMemoryError(RuntimeError):
    """The device has less memory than is known to be needed."""


def require_room(size: int) -> None:
    """Raise `OutOfMemoryError` where fewer than `size` bytes of the device are free, before any of them is taken."""
    if (free := CUDA.free_bytes()) < size:
        raise OutOfMemoryError(f"CUDA out of memory: expected {size >> 20} MiB free on the device; saw {free >> 20} MiB")


def refuses_forks() -> bool:
    """Whether torch, where it was imported, would refuse the GPU to a process that is forked from this one: asked in one."""
    torch = sys.modules.get("torch")
    if getattr(getattr(torch, "version", None), "cuda", None) is None:
        return False
    child = os.fork()
    if child == 0:
        refuses = True
        with contextlib.suppress(Exception):
            refuses = bool(torch.cuda._is_in_bad_fork())  # type: ignore[union-attr]  # noqa: SLF001
        os._exit(int(refuses))
    return os.waitpid(child, 0)[1] != 0


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error`, or one that it came from, means that the device's memory is used up, whatever its class is called.

    torch's allocator has a class for it. A context, a library's handle or page-locked memory for which there is no room fail as
    `AcceleratorError` or `RuntimeError`, with CUDA's or the library's own words.
    """
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        if isinstance(at, RuntimeError) and _means_out_of_memory(type(at).__name__, str(at)):
            return True
        at = at.__cause__ or at.__context__
    return False


def _means_out_of_memory(name: str, text: str) -> bool:
    if name == OutOfMemoryError.__name__ or _NO_ROOM.search(text):
        return True
    if not _NO_HANDLE.search(text):
        return False
    try:
        return CUDA.free_bytes() < _HANDLE_BYTES
    except RuntimeError:  # the device does not answer any more
        return False


def release() -> None:
    """Zero every block that the caching allocator has free, and give them back to the driver.

    Freed blocks keep what they held: activations, gradients, batches. Raises `RuntimeError` where the device zeroes nothing.
    """
    CUDA.synchronize()
    CUDA.drop_workspaces()
    for address, size in _free_blocks():
        if status := CUDA.memset(address, size):
            CUDA.last_error()
            raise RuntimeError(f"expected the device to zero {size} bytes of freed memory; saw CUDA status {status}")
    CUDA.synchronize()
    CUDA.empty_cache()


def _free_blocks() -> Iterator[tuple[int, int]]:
    """Address and bytes of each block that no tensor has."""
    for segment in CUDA.segments():
        address = int(segment["address"])
        for block in segment["blocks"]:
            size = int(block["size"])
            if block["state"] != _ALLOCATED:
                yield address, size
            address += size


@functools.cache
def _runtime(maps: Path) -> ctypes.CDLL:
    """The CUDA runtime that torch has loaded: another one would have other errors and another current device."""
    for line in maps.read_text(encoding="utf-8", errors="replace").splitlines():
        path = line.partition("/")[2].strip()
        if path.rpartition("/")[2].startswith("libcudart.so"):
            return ctypes.CDLL(f"/{path}")
    raise RuntimeError("expected the CUDA runtime (libcudart.so) among the libraries that torch loads; saw none")
