"""The device a workload runs on, and tensors in memory that the workload does not own. Knows torch, not what is trained."""

from __future__ import annotations

import resource
import sys
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.wire.canonical import parse_object
from pytest_glasshouse.wire.tensors import (
    ITEM_BYTES,
    LENGTH_BYTES,
    SAMPLE_NUMBERS,
    digest_of_tensors,
    head_bytes,
    parse_safetensors,
    sampled_names,
)
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads import cuda
from pytest_glasshouse.workloads.resident import Resident, Rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import torch

    from pytest_glasshouse.wire.tensors import TensorEntry
    from pytest_glasshouse.workloads.base import DeviceName, Facts, Parts

ConfigT = TypeVar("ConfigT")

_DTYPES = {
    "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "F64": "float64", "BOOL": "bool",
    "U8": "uint8", "I8": "int8", "I16": "int16",
}  # fmt: skip


#: A sealed model of many files has a long one.
_LONGEST_CONFIG = 1 << 20


def set_threads(device: DeviceName) -> None:
    """Set the thread count before the first tensor: with two threads another busy process slows a step fifty-fold."""
    import torch

    if device == "cpu":
        torch.set_num_threads(1)


def part(parts: Parts, name: str) -> memoryview | Resident:
    """The part `name`: bytes on the host, or on the device."""
    if name not in parts:
        raise IntegrityError("parts", f"expected a part {name!r}; saw {', '.join(sorted(parts)) or 'none'}")
    found = parts[name]
    return found if isinstance(found, Resident) else memoryview(found).cast("B")


def on_device(parts: Parts, device: DeviceName) -> bool:
    """Whether the tensors that a trainer takes from the parts are on the device, so that the trainer must zero them."""
    return device == "cuda" or any(isinstance(each, Resident) for each in parts.values())


def read_config(parts: Parts, kind: type[ConfigT], *, workload: str) -> ConfigT:
    """The workload's configuration, which must be one of `workload`."""
    config = parse_object(bytes(part(parts, "config")), limit=_LONGEST_CONFIG)
    if config.get("workload") != workload:
        raise IntegrityError("parts", f"config: expected workload {workload}")
    try:
        return check_typed(config, kind, "config")
    except ProtocolError as error:
        raise IntegrityError("parts", str(error)) from None


def tensors_in(buffer: memoryview | Resident, device: DeviceName) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors buffer: views into it where it is on the device, otherwise copies on the device."""
    import torch

    tensors = {}
    for name, entry in _entries(buffer).items():
        if entry.dtype not in _DTYPES or entry.start == entry.end:
            raise IntegrityError("parts", f"tensor {name!r}: expected numbers of a known dtype; saw {entry.dtype} {entry.shape}")
        if isinstance(buffer, Resident):
            octets = buffer.octets[entry.start : entry.end]
            # A header of odd length leaves a tensor unaligned; only an aligned copy can be viewed as numbers.
            octets = octets.clone() if entry.start % ITEM_BYTES[entry.dtype] else octets
            tensors[name] = octets.view(getattr(torch, _DTYPES[entry.dtype])).view(entry.shape)
            continue
        with warnings.catch_warnings():
            # torch cannot mark a tensor read-only; nothing here writes into a part.
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            flat = torch.frombuffer(buffer[entry.start : entry.end], dtype=getattr(torch, _DTYPES[entry.dtype]))
        tensors[name] = flat.view(entry.shape).to(device)
    return tensors


def _entries(buffer: memoryview | Resident) -> dict[str, TensorEntry]:
    if not isinstance(buffer, Resident):
        return parse_safetensors(buffer)
    try:
        first = buffer.read(0, min(LENGTH_BYTES, len(buffer)))
        return parse_safetensors(buffer.read(0, min(head_bytes(first), len(buffer))), total=len(buffer))
    finally:
        buffer.rewind()


def rows_in(buffer: memoryview | Resident, name: str) -> Sequence[memoryview] | Rows:
    """The rows of one tensor of a safetensors buffer, as views of its bytes; read back from a device on access."""
    entry = _entries(buffer)[name]
    size = (entry.end - entry.start) // entry.shape[0]
    if isinstance(buffer, Resident):
        return Rows(buffer, entry.start, size)
    return [buffer[at : at + size] for at in range(entry.start, entry.end, size)]


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The digest of tensors in place: serialising them first would leave a copy in freed memory."""
    import torch

    names = {getattr(torch, torch_name): name for name, torch_name in _DTYPES.items()}
    return digest_of_tensors(
        (name, names[tensor.dtype], tuple(tensor.shape), octets)
        for name, tensor in sorted(tensors.items())
        for octets in _octets(tensor)
    )


def sample_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The digest of a few numbers of a few tensors: every step changes them, and none is known without training.

    It is taken within measured time, so it must cost next to nothing.
    """
    return digest({name: tensors[name].detach().view(-1)[:SAMPLE_NUMBERS] for name in sampled_names(tensors)})


def _octets(tensor: Any) -> Iterator[memoryview]:
    """One tensor's bytes. From a GPU they are a copy of one tensor at a time, which is zeroed after use."""
    import torch

    on_host = tensor.detach().cpu().contiguous()
    yield memoryview(on_host.view(-1).view(torch.uint8).numpy())
    if on_host.data_ptr() != tensor.data_ptr():
        on_host.zero_()


def synchronize(device: DeviceName) -> None:
    """Wait for the device."""
    if device == "cuda":
        cuda.CUDA.synchronize()


def generator(device: DeviceName) -> torch.Generator:
    """Random numbers drawn on the device."""
    import torch

    return cuda.CUDA.generator() if device == "cuda" else torch.Generator()


def zero(tensors: Iterable[Any]) -> None:
    """Zero tensors that are about to be dropped; None among them is skipped."""
    import torch

    with torch.no_grad():
        for tensor in tensors:
            if isinstance(tensor, torch.Tensor):
                tensor.zero_()


def optimizer_tensors(optimizer: Any) -> list[Any]:
    """Every tensor in an optimizer's state."""
    return [tensor for state in optimizer.state.values() for tensor in state.values()]


def facts_of(device: DeviceName, *, trainable: int, total: int, dtype: str) -> Facts:
    """Device and its UUID, versions, threads, sizes, and peak memory with its source."""
    import torch

    uuid: str | None = None
    if device == "cuda":
        uuid, name = cuda.CUDA.uuid(), cuda.CUDA.name()
        peak, source = cuda.CUDA.peak_bytes(), "cuda max_memory_allocated"
    else:
        # ru_maxrss counts the whole process, in KiB on Linux.
        name, peak, source = "cpu", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "ru_maxrss"
    return {
        "device": name,
        "deviceUuid": uuid,
        "dtype": dtype,
        "pythonVersion": sys.version.split()[0],
        "torchVersion": str(torch.__version__),
        "threads": torch.get_num_threads(),
        "trainableParameters": trainable,
        "totalParameters": total,
        "peakMemoryBytes": peak,
        "peakMemorySource": source,
    }


def release(device: DeviceName) -> None:
    """Zero the blocks that were freed on a GPU, and return them to the driver; freed host memory is the leg's to overwrite."""
    if device == "cuda":
        cuda.release()
