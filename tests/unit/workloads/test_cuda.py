"""What the product asks of CUDA: which errors mean that there is no room, and the runtime that is asked."""

from __future__ import annotations

import ctypes
import inspect
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.leg_main import broken
from pytest_glasshouse.guest.ring import Ring, copy_material_to_device
from pytest_glasshouse.guest.training import import_training
from pytest_glasshouse.workloads import cuda, lora
from tests.limits import HANG_S

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch

NO_CONTEXT = "CUDA error: out of memory"
NO_HANDLE = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


def raised(name: str, text: str) -> Exception:
    """An error of a class of this name, as torch's versions have them."""
    made: type[Exception] = type(name, (RuntimeError,), {})
    return made(text)


def reason(error: Exception) -> object:
    """The reason a leg gives that ends with this error."""

    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        fail()
    return broken(raised.value)["reason"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"),
        ("RuntimeError", "CUDA out of memory. Tried to allocate 20.00 MiB (GPU 0; 31.75 GiB total capacity)"),
        ("AcceleratorError", NO_CONTEXT + "\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia.com for more."),
        ("RuntimeError", "CUDA driver error: out of memory"),
        ("RuntimeError", NO_HANDLE),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        ("RuntimeError", "Triton Error [CUDA]: out of memory"),
    ],
)
def test_memory_that_is_used_up_has_one_reason_whatever_it_is_called(name: str, text: str) -> None:
    """The row runner tries legs that do not fit beside each other one after the other: by this reason, and no other."""
    assert reason(raised(name, text)) == "OutOfMemoryError"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AcceleratorError", "CUDA error: an illegal memory access was encountered"),
        ("RuntimeError", "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        ("RuntimeError", "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
        ("RuntimeError", "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        ("RuntimeError", "the shapes cannot be multiplied"),
    ],
)
def test_another_failure_keeps_its_name(name: str, text: str) -> None:
    """A row that is run again for nothing costs its price twice."""
    assert reason(raised(name, text)) == name


def test_memory_of_the_host_is_not_the_devices() -> None:
    assert reason(MemoryError("CUDA out of memory")) == "MemoryError"


@pytest.mark.parametrize(("left", "expected"), [(8 << 20, "OutOfMemoryError"), (4 << 30, "RuntimeError")])
def test_a_handle_that_is_not_made_is_judged_by_the_memory_that_is_left(
    gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch, left: int, expected: str
) -> None:
    """cuBLAS says the same where the driver does not fit, and where there is no room for its handle."""
    monkeypatch.setattr(gpu, "free_bytes", lambda: left)
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert reason(error) == expected


def test_a_device_that_does_not_answer_is_not_called_full(gpu: FakeCuda) -> None:
    gpu.fails.add("init")
    error = RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`")
    assert reason(error) == "RuntimeError"


def test_the_cause_counts_where_another_error_was_made_of_it() -> None:
    made = KeyError("weights")
    made.__context__ = raised("AcceleratorError", NO_CONTEXT)
    assert reason(made) == "OutOfMemoryError"


def test_an_error_that_is_its_own_cause_is_judged_all_the_same() -> None:
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert not cuda.is_out_of_memory(first)


@pytest.mark.parametrize("fails", ["init", "cublas"])
def test_a_leg_that_gets_no_context_or_no_handle_finds_no_room(gpu: FakeCuda, fails: str) -> None:
    gpu.fails.add(fails)
    with pytest.raises(RuntimeError) as raised:
        import_training("mlp", "cuda")
    assert cuda.is_out_of_memory(raised.value)


def test_the_device_is_asked_before_anything_is_put_on_it(gpu: FakeCuda) -> None:
    """A leg that cannot fit says so at once, in numbers, and before it is given a key."""
    used = gpu.free_bytes()
    with pytest.raises(RuntimeError, match=r"out of memory: expected 190 MiB free on the device; saw 64 MiB") as raised:
        Ring({"train": 200_000_000}, slot=4096, memory=TorchMemory("cuda"))
    assert cuda.is_out_of_memory(raised.value)
    assert (gpu.free_bytes(), gpu.pinned) == (used, {})


def test_what_the_allocator_cannot_give_is_no_room_and_leaves_nothing(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is free can be taken by the other leg between the question and the copy."""
    monkeypatch.setattr(gpu, "free_bytes", lambda: 1 << 40)
    content = {"first": memoryview(b"a secret of the owner" * 100_000), "second": memoryview(bytes(70 << 20))}
    with pytest.raises(RuntimeError) as raised:
        copy_material_to_device(content, TorchMemory("cuda"))
    assert cuda.is_out_of_memory(raised.value)
    assert b"secret" not in gpu.content()
    assert gpu.pinned == {}


def test_an_adapter_that_finds_no_room_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    import peft

    def full(*_: object, **__: object) -> None:
        raise raised("OutOfMemoryError", "CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr(peft, "set_peft_model_state_dict", full)
    monkeypatch.setattr(peft, "get_peft_model_state_dict", lambda *_, **__: {})
    with pytest.raises(RuntimeError, match="out of memory"):
        lora._load_adapter(None, {})


def test_the_fake_and_torchs_own_have_the_same_members() -> None:
    """What the product calls is what the tests run."""
    from tests.fake_cuda import FakeCuda

    asked = {name for name in vars(cuda.Cuda) if not name.startswith("_")}
    assert asked == {name for name in vars(cuda.TorchCuda) if not name.startswith("_")}
    for name in asked:
        ours, theirs = inspect.signature(getattr(FakeCuda, name)), inspect.signature(getattr(cuda.TorchCuda, name))
        assert list(ours.parameters) == list(theirs.parameters), name


def test_what_is_called_of_torch_is_there() -> None:
    """As far as a torch without CUDA shows it."""
    import torch

    for name in (
        "init", "synchronize", "Event", "memory_snapshot", "current_device", "empty_cache", "mem_get_info", "get_device_name",
        "max_memory_allocated",
    ):  # fmt: skip
        assert callable(getattr(torch.cuda, name))


_RUNTIME = """
static int error;
int cudaHostRegister(void *at, unsigned long size, unsigned flags) { return error = size == 4096 && !flags ? 0 : 712; }
int cudaHostUnregister(void *at) { return error = at ? 0 : 1; }
int cudaGetLastError(void) { int was = error; error = 0; return was; }
int cudaMemset(void *at, int value, unsigned long size) {
    for (unsigned long i = 0; i < size; i++) ((char *)at)[i] = value;
    return 0;
}
"""


def test_the_runtime_that_is_loaded_is_the_one_that_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its path in the process's maps; its statuses come back, and its last error is forgotten when it was read."""
    compiler = shutil.which("cc")
    if compiler is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("expected a C compiler (cc): a runtime to ask is compiled here")
    library = tmp_path / "a folder" / "libcudart.so.13.0.96"
    library.parent.mkdir()
    (tmp_path / "runtime.c").write_text(_RUNTIME)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(tmp_path / "runtime.c")]
    subprocess.run(command, check=True, timeout=HANG_S)
    maps = tmp_path / "maps"
    maps.write_text(f"7f00-7f01 r-xp 0 08:01 7 /lib/libc.so.6\n7f01-7f02 rw-p 0 00:00 0 \n7f02-7f03 r-xp 0 08:01 9 {library}\n")
    monkeypatch.setattr(cuda, "_OWN_MAPS", maps)
    gpu = cuda.TorchCuda()
    assert (gpu.host_register(4096, 4096), gpu.host_register(4096, 8192), gpu.last_error(), gpu.last_error()) == (0, 712, 712, 0)
    assert (gpu.host_unregister(4096), gpu.host_unregister(0), gpu.last_error()) == (0, 1, 1)
    held = ctypes.create_string_buffer(b"secret")
    assert (gpu.memset(ctypes.addressof(held), 6), held.raw) == (0, bytes(7))


def test_a_torch_without_the_runtime_is_told_in_one_line(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text("7f00-7f01 r-xp 0 08:01 7 /lib/libc.so.6\n")
    with pytest.raises(RuntimeError, match=r"expected the CUDA runtime \(libcudart.so\)"):
        cuda._runtime(maps)
