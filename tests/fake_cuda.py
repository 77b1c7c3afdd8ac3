"""A device that behaves like CUDA where it matters here, for a machine that has none.

Torch's own code runs on it, with `device="cuda"`: memory of its own, which the host reaches by copies only; copies from
page-locked memory that take place when the device is waited for; a caching allocator that keeps freed blocks with what they
hold, and a driver that keeps what it is given back; errors by the names that CUDA has for them. Arithmetic is the CPU's.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from pytest_glasshouse.workloads import cuda

_ALIGN = 512
_SEGMENT = 2 << 20
_HERE = torch.device("cuda", 0)
_HOST = torch.device("cpu")
_aten = torch.ops.aten
_EMPTY = (_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided)
_PRODUCTS = (_aten.mm.default, _aten.addmm.default, _aten.bmm.default)

#: As CUDA calls them.
ALREADY_REGISTERED, INVALID_VALUE, OUT_OF_MEMORY = 712, 1, 2
REFUSED_PIN = "CUDA error: part or all of the requested memory range is already mapped"
NO_CONTEXT = "CUDA error: out of memory"
NO_HANDLE = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


class FakeCuda(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The device. `limit` is its memory in bytes; `fails` names what fails from now on: `init`, `cublas`, `pin`.

    Use it as a context: inside, `device="cuda"` is this device, and the product's `CUDA` too.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.limit = limit
        self.fails: set[str] = set()
        self.memory = mmap.mmap(-1, limit)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.pinned: dict[int, int] = {}
        self.calls: list[str] = []
        #: The device's own clock.
        self.clock_ns: Callable[[], int] = time.perf_counter_ns
        #: How many more the allocator gives; below zero it gives as many as there is memory for.
        self.allocations_left = -1
        #: Names of the operations that ran here.
        self.operations: set[str] = set()
        self._segments: list[_Segment] = []
        self._queue: list[Callable[[], object]] = []
        self._error = 0
        self._live = self._peak = self._used = 0
        self._products: set[tuple[Any, tuple[tuple[Any, ...], ...]]] = set()
        self._moves = _Moves(self)

    # ---------------------------------------------------------------- what the product asks

    def init(self) -> None:
        self.calls.append("init")
        if "init" in self.fails:
            raise torch.AcceleratorError(NO_CONTEXT)

    def synchronize(self) -> None:
        self.calls.append("synchronize")
        waiting, self._queue = self._queue, []
        for work in waiting:
            work()

    def record(self) -> Callable[[], object]:
        here = self._queue[-1] if self._queue else None

        def wait() -> None:
            while here in self._queue:
                self._queue.pop(0)()

        return wait

    def mark(self) -> cuda.DeviceMark:
        mark = _Mark(self.clock_ns)
        if self._queue:
            self._queue.append(mark.reached)
        else:
            mark.reached()
        return mark

    def generator(self) -> torch.Generator:
        return torch.Generator()

    def segments(self) -> Sequence[Mapping[str, Any]]:
        return [
            {"address": self.base + each.start, "blocks": [{"size": b.size, "state": b.state} for b in each.blocks]}
            for each in self._segments
        ]

    def drop_workspaces(self) -> None:
        # The CPU's libraries keep what they multiplied, in memory that is no part of this device: zeros take its place.
        for func, shapes in self._products:
            func(*(torch.empty_strided(*shape, dtype=dtype).zero_() for *shape, dtype in shapes))

    def empty_cache(self) -> None:
        self.calls.append("empty_cache")
        self._segments = [each for each in self._segments if any(b.state != "inactive" for b in each.blocks)]

    def free_bytes(self) -> int:
        self.init()
        return self.limit - sum(each.size for each in self._segments)

    def memset(self, address: int, size: int) -> int:
        self._launched()
        self._queue.append(lambda: ctypes.memset(address, 0, size))
        return 0

    def host_register(self, address: int, size: int) -> int:
        if "pin" in self.fails or address in self.pinned:
            self._error = ALREADY_REGISTERED
            return ALREADY_REGISTERED
        self.pinned[address] = size
        return 0

    def host_unregister(self, address: int) -> int:
        if self.pinned.pop(address, None) is None:
            self._error = INVALID_VALUE
            return INVALID_VALUE
        return 0

    def last_error(self) -> int:
        error, self._error = self._error, 0
        return error

    def name(self) -> str:
        return "Fake CUDA"

    def uuid(self) -> str | None:
        return "GPU-fa4ecada-0000-4000-8000-000000000000"

    def peak_bytes(self) -> int:
        return self._peak

    # ---------------------------------------------------------------- what tests ask

    def content(self) -> bytes:
        """All memory of the device that was ever used: of tensors, in freed blocks, and what the driver was given back."""
        self.synchronize()
        return self.memory[: self._used]

    def live_bytes(self) -> int:
        """Bytes that tensors have now."""
        return self._live

    # ---------------------------------------------------------------- the allocator

    def _allocate(self, size: int) -> torch.Tensor:
        """A flat uint8 tensor of the CPU that lies in the device's memory; what was there before stays in it."""
        if not size:
            return torch.empty(0, dtype=torch.uint8)
        if self.allocations_left == 0:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size >> 20}.00 MiB. GPU 0 has no more")
        self.allocations_left -= 1
        wanted = -(-size // _ALIGN) * _ALIGN
        for segment in self._segments:
            if (block := segment.take(wanted)) is not None:
                break
        else:
            segment = self._new_segment(wanted)
            block = segment.take(wanted)
            assert block is not None
        self._live += block.size
        self._peak = max(self._peak, self._live)
        place = (ctypes.c_uint8 * size).from_buffer(self.memory, block.start)
        weakref.finalize(place, self._freed, segment, block).atexit = False
        return torch.frombuffer(place, dtype=torch.uint8)

    def _new_segment(self, wanted: int) -> _Segment:
        size = -(-wanted // _SEGMENT) * _SEGMENT
        at = 0
        for each in sorted(self._segments, key=lambda each: each.start):
            if each.start - at >= size:
                break
            at = each.start + each.size
        if at + size > self.limit:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size >> 20}.00 MiB. GPU 0 has no more")
        self._used = max(self._used, at + size)
        segment = _Segment(at, size)
        self._segments.append(segment)
        return segment

    def _freed(self, segment: _Segment, block: _Block) -> None:
        self._live -= block.size
        segment.give_back(block)

    def arrived(self, source: torch.Tensor, *, empty: bool = False) -> torch.Tensor:
        """`source`, computed by the CPU, as a tensor of the device; one that is empty shows what its block held before."""
        flat = self._allocate(source.untyped_storage().nbytes())
        if not empty:
            flat.copy_(torch.empty(0, dtype=torch.uint8).set_(source.untyped_storage()))
        inner = torch.empty(0, dtype=source.dtype).set_(
            flat.untyped_storage(), source.storage_offset(), source.size(), source.stride()
        )
        return DeviceTensor(inner, self)

    # ---------------------------------------------------------------- torch's side

    def _launched(self) -> None:
        if error := self.last_error():
            raise torch.AcceleratorError(REFUSED_PIN if error == ALREADY_REGISTERED else f"CUDA error: {error}")

    def __enter__(self) -> Self:
        self._before = [(cuda, "CUDA", cuda.CUDA)]
        cuda.CUDA = self
        for name, instead in self._what_libraries_ask().items():
            self._before.append((torch.cuda, name, getattr(torch.cuda, name)))
            setattr(torch.cuda, name, instead)
        # With two threads another busy process slows an operation fifty-fold.
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        # A dispatch mode is of one thread, and transformers loads in others.
        self._async_load = os.environ.get("HF_DEACTIVATE_ASYNC_LOAD")
        os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
        # Else a module would copy a tensor of the device into one of the host.
        self._overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        self._moves.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._moves.__exit__(*error)  # type: ignore[no-untyped-call]
        for where, name, before in self._before:
            setattr(where, name, before)
        torch.__future__.set_overwrite_module_params_on_conversion(self._overwrites)
        torch.set_num_threads(self._threads)
        del os.environ["HF_DEACTIVATE_ASYNC_LOAD"]
        if self._async_load is not None:
            os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = self._async_load

    def _what_libraries_ask(self) -> dict[str, Callable[..., object]]:
        """What torch itself and transformers call of `torch.cuda`, by name."""
        return {
            "_lazy_init": lambda: None,
            "current_device": lambda: 0,
            # transformers keeps 1.2 GiB of any device free.
            "mem_get_info": lambda *_: (self.free_bytes(), self.limit + (2 << 30)),
            "memory_reserved": lambda *_: sum(each.size for each in self._segments),
            "memory_allocated": lambda *_: self._live,
        }

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and torch imports for seconds what it would turn off."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """One operation, on the host or on the device."""
        tensors = [each for each in _leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        given = {id(each.inner): each for each in tensors if isinstance(each, DeviceTensor)}
        device = kwargs.get("device")
        device = None if device is None else torch.device(device)
        if not given and (device is None or device.type != "cuda"):
            return func(*args, **kwargs)
        if func is _aten.copy_.default and len(given) == 1:
            return self._copy(
                args[0], args[1], non_blocking=bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
            )
        if func is not _aten._to_copy.default and any(
            each.dim() and not isinstance(each, DeviceTensor) and not each.is_meta for each in tensors if given
        ):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! ({func})"
            )
        self._launched()
        empty = func.overloadpacket in _EMPTY
        if not func.is_view and not empty:  # those need no kernel
            self.operations.add(str(func))
            self._flush()
        if func in _PRODUCTS:
            if "cublas" in self.fails:
                raise RuntimeError(NO_HANDLE)
            self._products.add((func, tuple((tuple(each.shape), each.stride(), each.dtype) for each in args)))
        result = func(*_mapped(_inside, args), **_mapped(_inside, kwargs))
        # Bound, and no closure: the frames of an error keep a closure, and so its tensors.
        return _mapped(partial(self._outside, given, empty), result)

    def _outside(self, given: dict[int, DeviceTensor], empty: bool, each: Any) -> Any:
        # That a result is for the CPU is what C++ code takes this device for; `to_host` is the way to the host.
        if not isinstance(each, torch.Tensor) or isinstance(each, DeviceTensor):
            return each
        if id(each) in given:
            return given[id(each)]
        if self._holds(each):
            return DeviceTensor(each, self)
        return self.arrived(each, empty=empty)

    def to_host(self, tensor: DeviceTensor, dtype: torch.dtype | None) -> torch.Tensor:
        """A copy on the host, after all work so far."""
        self._launched()
        self._flush()
        return tensor.inner.detach().to(dtype or tensor.dtype, copy=True)

    def _flush(self) -> None:
        waiting, self._queue = self._queue, []
        for work in waiting:
            work()

    def _holds(self, tensor: torch.Tensor) -> bool:
        return self.base <= tensor.untyped_storage().data_ptr() < self.base + self.limit

    def _copy(self, target: torch.Tensor, source: torch.Tensor, *, non_blocking: bool) -> torch.Tensor:
        self._launched()
        to, what = _inside(target), _inside(source)
        if isinstance(target, DeviceTensor) and non_blocking and self._is_pinned(what):
            self._queue.append(lambda: to.copy_(what))
        else:
            self._flush()
            to.copy_(what)
        return target

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        at = tensor.data_ptr()
        return any(start <= at < start + size for start, size in self.pinned.items())


class _Moves(TorchFunctionMode):
    """Moves tensors of the host to the device: torch would ask a CUDA that is not there before it dispatches."""

    def __init__(self, gpu: FakeCuda) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.to and not isinstance(args[0], DeviceTensor):
            device, dtype, _, _ = torch._C._nn._parse_to(*args[1:], **{n: v for n, v in kwargs.items() if n != "copy"})
            if device is not None and device.type == "cuda":
                with torch.no_grad(), torch._C.DisableTorchFunction(), _disable_current_modes():
                    return self._gpu.arrived(args[0].detach().to(dtype or args[0].dtype))
        return func(*args, **kwargs)


class DeviceTensor(torch.Tensor):
    """A tensor of the device. `inner` is the same memory as a tensor of the CPU."""

    inner: torch.Tensor  # type: ignore[assignment]
    gpu: FakeCuda

    @staticmethod
    def __new__(cls: Any, inner: torch.Tensor, gpu: FakeCuda) -> DeviceTensor:  # noqa: PYI034
        # torch's C++ code takes it for a tensor of the CPU: it has no CUDA to ask.
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=_HOST
        )
        made.inner, made.gpu = inner, gpu
        return made

    def __init__(self, inner: torch.Tensor, gpu: FakeCuda) -> None:
        super().__init__()

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        gpu = next(each.gpu for each in _leaves((args, kwargs)) if isinstance(each, DeviceTensor))
        return gpu.run(func, args, kwargs or {})

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (instead := _AS_CUDA_DOES.get(func)) is not None and isinstance(args[0], DeviceTensor):
            return instead(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


def _to(tensor: DeviceTensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        if device is None or device.type == "cuda":
            return tensor if dtype in (None, tensor.dtype) else _aten._to_copy.default(tensor, dtype=dtype)
        return tensor.gpu.to_host(tensor, dtype)


def _numpy(tensor: DeviceTensor, *_: Any, **__: Any) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")


_AS_CUDA_DOES: dict[Any, Callable[..., Any]] = {
    torch.Tensor.device.__get__: lambda tensor: _HERE,
    torch.Tensor.is_cuda.__get__: lambda tensor: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: lambda tensor: False,  # type: ignore[attr-defined]
    torch.Tensor.to: _to,
    torch.Tensor.cpu: lambda tensor: _to(tensor, "cpu"),
    torch.Tensor.numpy: _numpy,
    torch.Tensor.data_ptr: lambda tensor: tensor.inner.data_ptr(),
    torch.Tensor.untyped_storage: lambda tensor: tensor.inner.untyped_storage(),
}


class _Mark:
    """An event: the device notes the time when it comes there. Asking before that is an error, as with CUDA."""

    def __init__(self, clock_ns: Callable[[], int]) -> None:
        self._clock_ns = clock_ns
        self.at_ns: int | None = None

    def reached(self) -> None:
        self.at_ns = self._clock_ns()

    def ns_since(self, before: _Mark) -> int:
        if self.at_ns is None or before.at_ns is None:
            raise RuntimeError("CUDA error: device not ready")
        return self.at_ns - before.at_ns


class _Block:
    def __init__(self, start: int, size: int) -> None:
        self.start, self.size, self.state = start, size, "inactive"


class _Segment:
    """What the driver gave at once; divided into blocks, of which free neighbours become one."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size = start, size
        self.blocks = [_Block(start, size)]

    def take(self, size: int) -> _Block | None:
        for place, block in enumerate(self.blocks):
            if block.state == "inactive" and block.size >= size:
                if block.size > size:
                    self.blocks.insert(place + 1, _Block(block.start + size, block.size - size))
                block.size, block.state = size, "active_allocated"
                return block
        return None

    def give_back(self, block: _Block) -> None:
        block.state = "inactive"
        merged: list[_Block] = []
        for each in self.blocks:
            if merged and merged[-1].state == each.state == "inactive":
                merged[-1].size += each.size
            else:
                merged.append(each)
        self.blocks = merged


def _inside(value: Any) -> Any:
    if isinstance(value, DeviceTensor):
        return value.inner
    return _HOST if isinstance(value, torch.device) and value.type == "cuda" else value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """What an operation takes or gives, with each leaf changed: torch's own `tree_map` takes most of a step's time."""
    if isinstance(value, Mapping):
        return {name: _mapped(change, each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(partial(_mapped, change), value))
    return change(value)


def _leaves(value: Any) -> Generator[Any]:
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _leaves(each)
    else:
        yield value
