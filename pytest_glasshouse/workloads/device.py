"""The device a workload runs on, and tensors that lie in memory somebody else owns.

Knows torch. Refuses to know what is trained.
"""

from __future__ import annotations

import resource
import sys
import warnings
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import parse_object
from pytest_glasshouse.wire.tensors import digest_of_tensors, parse_safetensors

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pytest_glasshouse.workloads.base import Device, Facts

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}


def settle(device: Device) -> None:
    """Fix the thread count before the first tensor: with two threads a busy neighbour slows a step fifty-fold."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)


def part(parts: Mapping[str, memoryview], name: str) -> memoryview:
    """The part called `name`, as bytes."""
    if name not in parts:
        raise IntegrityError("parts", f"expected a part {name!r}; saw {', '.join(sorted(parts)) or 'none'}")
    return memoryview(parts[name]).cast("B")


def read_config(parts: Mapping[str, memoryview], *, workload: str) -> dict[str, Any]:
    """The workload's configuration, which must be one of `workload`."""
    config: dict[str, Any] = parse_object(bytes(part(parts, "config")))
    if config.get("workload") != workload:
        raise IntegrityError("parts", f"config: expected workload {workload}")
    return config


def tensors_in(buffer: memoryview, device: Device) -> dict[str, Any]:
    """The tensors of a safetensors buffer: views into it on the CPU, copies on a GPU."""
    import torch

    tensors = {}
    for name, entry in parse_safetensors(buffer).items():
        if entry.dtype not in _DTYPES or entry.start == entry.end:
            raise IntegrityError("parts", f"tensor {name!r}: expected numbers of a known dtype; saw {entry.dtype} {entry.shape}")
        with warnings.catch_warnings():
            # torch cannot mark a tensor read-only; nothing here writes into a part.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(buffer[entry.start : entry.end], dtype=getattr(torch, _DTYPES[entry.dtype]))
        tensors[name] = flat.view(entry.shape).to(device)
    return tensors


def rows_in(buffer: memoryview, name: str) -> list[memoryview]:
    """The rows of one tensor of a safetensors buffer, as bytes where they lie."""
    entry = parse_safetensors(buffer)[name]
    size = (entry.end - entry.start) // entry.shape[0]
    return [buffer[at : at + size] for at in range(entry.start, entry.end, size)]


def digest(tensors: Mapping[str, Any]) -> str:
    """The digest of tensors where they lie: saving them first would leave a copy in freed memory."""
    import torch

    names = {getattr(torch, torch_name): name for name, torch_name in _DTYPES.items()}
    return digest_of_tensors(
        (name, names[tensor.dtype], tuple(tensor.shape), memoryview(_octets(tensor))) for name, tensor in tensors.items()
    )


def _octets(tensor: Any) -> Any:
    import torch

    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()


def synchronize(device: Device) -> None:
    """Wait for the device."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def zero(tensors: Iterable[Any]) -> None:
    """Overwrite tensors that are about to be dropped; None among them is passed over."""
    import torch

    with torch.no_grad():
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()


def optimizer_tensors(optimizer: Any) -> list[Any]:
    """Every tensor an optimizer keeps."""
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


def facts_of(device: Device, *, trainable: int, total: int, dtype: str) -> Facts:
    """What ran: device, versions, threads, sizes and the peak of memory with the way it was read."""
    import torch

    if device == "cuda":
        name, peak, source = torch.cuda.get_device_name(), torch.cuda.max_memory_allocated(), "cuda max_memory_allocated"
    else:
        # ru_maxrss counts the whole process, in KiB on Linux.
        name, peak, source = "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "ru_maxrss"
    return {
        "device": name,
        "dtype": dtype,
        "pythonVersion": sys.version.split()[0],
        "torchVersion": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "trainableParameters": trainable,
        "totalParameters": total,
        "peakMemoryBytes": peak,
        "peakMemorySource": source,
    }


def release(device: Device) -> None:
    """Give what the caching allocator keeps back to the GPU, where freed blocks would otherwise stay readable."""
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
