"""One probe: a process like a leg that looks at itself, and prints what it saw as one line of JSON.

    python probe_child.py PROBE DEVICE        # DEVICE: cuda, or cpu to try the probe itself

Nothing is judged here. What a probe cannot do is an `error` in its answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

#: Also imported for the names of the probes.
DEVICE: Any = sys.argv[2] if __name__ == "__main__" else "cpu"
#: This process's memory, opened while it still may: once it is not dumpable the file is root's.
MEMORY = os.open("/proc/self/mem", os.O_RDONLY | os.O_CLOEXEC)
_MIB = 1 << 20
#: A segment of device memory larger than this is not copied to the host.
_LARGEST_SEGMENT = 1 << 30


def nvml() -> dict[str, Any]:
    """What NVML answers, call by call: each figure, or the name of its error."""
    import pynvml

    began = time.perf_counter()
    pynvml.nvmlInit()
    told: dict[str, Any] = {"init_s": round(time.perf_counter() - began, 4), "gpus": pynvml.nvmlDeviceGetCount()}
    device = pynvml.nvmlDeviceGetHandleByIndex(0)
    ask: dict[str, Callable[[], Any]] = {
        "driver": pynvml.nvmlSystemGetDriverVersion,
        "cuda": pynvml.nvmlSystemGetCudaDriverVersion_v2,
        "name": lambda: pynvml.nvmlDeviceGetName(device),
        "uuid": lambda: pynvml.nvmlDeviceGetUUID(device),
        "memory_total": lambda: pynvml.nvmlDeviceGetMemoryInfo(device).total,
        "memory_used": lambda: pynvml.nvmlDeviceGetMemoryInfo(device).used,
        "sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(device, pynvml.NVML_CLOCK_SM),
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU),
        "power_mw": lambda: pynvml.nvmlDeviceGetPowerUsage(device),
        "energy_mj": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(device),
        "throttle_reasons": lambda: pynvml.nvmlDeviceGetCurrentClocksEventReasons(device),
        "persistence": lambda: pynvml.nvmlDeviceGetPersistenceMode(device),
        "mig": lambda: pynvml.nvmlDeviceGetMigMode(device),
        "processes": lambda: [[each.pid, each.usedGpuMemory] for each in pynvml.nvmlDeviceGetComputeRunningProcesses(device)],
    }
    for name, read in ask.items():
        try:
            told[name] = read()
        except Exception as error:  # noqa: BLE001  (each figure stands alone, whatever a call raises)
            told[name] = named(error)
    return told


def libraries(workload: str) -> dict[str, Any]:
    """What training loads after the first look at its code, what it leaves in its directory, and what a scan of it costs."""
    from pytest_glasshouse.agent.memory_scan import DescriptorMemory, scan
    from pytest_glasshouse.guest.loaded_code import collect
    from pytest_glasshouse.guest.training import import_training

    folder, began = material(workload), time.perf_counter()
    import_training(workload, DEVICE)
    first = collect()
    told: dict[str, Any] = {"import_s": round(time.perf_counter() - began, 2), "mapped_files": len(first["maps"])}
    trainer, parts = opened(workload, folder)
    losses = trainer.prologue(8)
    trainer.reset(1)
    for _ in range(8):
        trainer.step()
    trainer.synchronize()
    trainer.export()
    second = collect()
    late = sorted({path for path, _ in second["maps"]} - {path for path, _ in first["maps"]})
    told["late_libraries_of_packages"] = [Path(path).name for path in late if "-packages" in path]
    told["late_libraries_of_the_system"] = [path for path in late if "-packages" not in path]
    told["late_modules"] = len({name for name, _ in second["modules"]} - {name for name, _ in first["modules"]})
    told["losses"] = [losses[0], losses[-1]]
    told["facts"] = trainer.facts()
    told["left_in_directory"] = sorted(str(path) for path in Path().rglob("*"))[:20]
    if DEVICE == "cuda":
        told["device_memory"] = device_memory(trainer, parts, rows_of(folder, workload))
    else:
        trainer.close()
    with Path("/proc/self/maps").open("rb") as maps:
        found = scan(DescriptorMemory(MEMORY, maps.fileno()), [], bytes(32))
    told["scan"] = {
        "s": round(found.elapsed_ns / 1e9, 2),
        "mib": found.scanned_bytes // _MIB,
        "unreadable_mib": found.unreadable_bytes // _MIB,
    }
    told["resident_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return told


def device_memory(trainer: Any, parts: Any, rows: list[bytes]) -> dict[str, Any]:
    """How many rows of the data the device's memory holds: while training, and once everything was closed.

    Memory is read where torch's allocator has it. What it gave back to the driver cannot be read any more; so the trainer is
    closed while the allocator keeps its blocks.
    """
    import torch

    from pytest_glasshouse.workloads import device as devices

    told = {"rows_while_training": count(rows)}
    keep, torch.cuda.empty_cache = torch.cuda.empty_cache, lambda: None
    try:
        trainer.close()
        for part in parts.values():
            if hasattr(part, "octets"):
                part.octets.zero_()
        devices.release(DEVICE)
        told["rows_after_close"] = count(rows)
        told["allocator_mib"] = torch.cuda.memory_reserved() // _MIB
        nonzero = sum(len(held) - held.count(0) for held in segments())
        told["bytes_not_zero_after_close"] = nonzero
    finally:
        torch.cuda.empty_cache = keep
        keep()
    return told


def count(rows: list[bytes]) -> int:
    """How many of these rows are somewhere in the allocator's memory."""
    held = segments()
    return sum(any(row in each for each in held) for row in rows)


def segments() -> list[bytes]:
    """The allocator's memory on this device, freed blocks too, copied to the host."""
    import ctypes

    import torch

    torch.cuda.synchronize()
    line = next(each for each in Path("/proc/self/maps").read_text().splitlines() if "libcudart.so" in each)
    runtime, found = ctypes.CDLL(f"/{line.partition('/')[2]}"), []
    snapshot: Any = torch.cuda.memory_snapshot
    for each in snapshot():
        size = int(each["total_size"])
        if each["device"] == torch.cuda.current_device() and size <= _LARGEST_SEGMENT:
            room = ctypes.create_string_buffer(size)
            to_host = 2
            if runtime.cudaMemcpy(room, ctypes.c_void_p(each["address"]), ctypes.c_size_t(size), to_host) == 0:
                found.append(room.raw)
    return found


def rows_of(folder: Path, workload: str) -> list[bytes]:
    """Some rows of what is trained on, as bytes."""
    from safetensors.numpy import load

    name, tensor = ("data", "features") if workload == "mlp" else ("tokens", "ids")
    rows = load((folder / "parts" / name).read_bytes())[tensor]
    return [rows[index].tobytes()[:256] for index in range(0, len(rows), max(1, len(rows) // 48))][:48]


def opened(workload: str, folder: Path) -> tuple[Any, Any]:
    """A trainer whose material went through the ring, as a leg's does, and its parts."""
    from pytest_glasshouse.guest.device_memory import TorchMemory
    from pytest_glasshouse.guest.ring import copy_material_to_device
    from pytest_glasshouse.workloads.registry import open_trainer

    held = {path.name: memoryview(bytearray(path.read_bytes())) for path in (folder / "parts").iterdir()}
    parts: Any = copy_material_to_device(held, TorchMemory(DEVICE)) if DEVICE == "cuda" else held
    return open_trainer(workload, parts, base_dir=folder / "base", device=DEVICE), parts


def material(workload: str) -> Path:
    """A folder with the parts of a package and the base model, made by a process of its own: no leg makes them."""
    folder = Path.cwd().parent / "material"
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(Exception):
            from pytest_glasshouse.workloads.registry import prepare

            made: Any = prepare(workload, seed=7, **({"model": "no/such-0.5B"} if workload == "lora" else {}))  # type: ignore[arg-type]
            content = {"parts": made.parts, "base": made.base.content if made.base is not None else {}}
            for kind, files in content.items():
                (folder / kind).mkdir(parents=True)
                for name, data in files.items():
                    (folder / kind / name).write_bytes(data)
            os._exit(0)
        os._exit(1)
    if os.waitpid(pid, 0)[1] != 0:
        raise RuntimeError(f"the material of {workload} could not be made")
    return folder


def pin() -> dict[str, Any]:
    """Whether host memory can be pinned, what a refused pin leaves behind, and how fast memory is copied."""
    import torch

    from pytest_glasshouse.guest.device_memory import TorchMemory
    from pytest_glasshouse.guest.memory import Arena

    begin()
    memory, arena, size = TorchMemory(DEVICE), Arena(256 * _MIB), 64 * _MIB
    told: dict[str, Any] = {"memlock": resource.getrlimit(resource.RLIMIT_MEMLOCK), "locked": arena.locked}
    told["pinned"], told["pinned_again"] = memory.pin(arena), memory.pin(arena)
    try:
        torch.ones(4, device=DEVICE).add_(1)
        memory.synchronize()
        told["kernel_after_a_refused_pin"] = "runs"
    except RuntimeError as error:
        told["kernel_after_a_refused_pin"] = named(error)
    tensor = memory.allocate(size)
    memory.synchronize()
    began = time.perf_counter()
    memory.copy(arena.view[:size], tensor, 0)()
    memory.synchronize()
    told["copy_gb_per_s"] = round(size / (time.perf_counter() - began) / 1e9, 2)
    if told["pinned"]:
        memory.unpin(arena)
    arena.close()
    return told


def begin() -> None:
    """Create this process's CUDA context, as a leg does."""
    from pytest_glasshouse.workloads import cuda

    if DEVICE == "cuda":
        cuda.CUDA.init()


def out_of_memory() -> dict[str, Any]:
    """What an allocation that does not fit raises; and, with the device full, what a second process gets for its context."""
    import subprocess

    import torch

    begin()
    told: dict[str, Any] = {}
    try:
        torch.empty(1 << 45, dtype=torch.uint8, device=DEVICE)
    except Exception as error:  # noqa: BLE001
        told["allocation"] = named(error)
    if DEVICE == "cuda":
        keep = []
        with contextlib.suppress(RuntimeError):
            while (free := torch.cuda.mem_get_info()[0]) > 256 * _MIB:
                keep.append(torch.empty(min(free - 192 * _MIB, 8 << 30), dtype=torch.uint8, device=DEVICE))
        told["free_mib"] = torch.cuda.mem_get_info()[0] // _MIB
    second = subprocess.run(
        [sys.executable, "-I", "-B", __file__, "context", DEVICE], capture_output=True, text=True, timeout=60, check=False
    )
    told["second_process"] = json.loads(second.stdout.splitlines()[-1]) if second.stdout else second.stderr[-300:]
    return told


def context() -> dict[str, Any]:
    """A context and a gigabyte, as a second resident leg asks for them."""
    try:
        begin()
    except Exception as error:  # noqa: BLE001
        return {"context": named(error)}
    import torch

    try:
        torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    except Exception as error:  # noqa: BLE001
        return {"context": "made", "gigabyte": named(error)}
    return {"context": "made", "gigabyte": "allocated"}


def idle() -> dict[str, Any]:
    """Processor time of a leg that waits for its turn: *paused leg idle* allows 0.1 % of the measured time."""
    begin()
    before, began = time.process_time(), time.monotonic()
    time.sleep(3.0 if DEVICE == "cuda" else 0.2)
    share = (time.process_time() - before) / (time.monotonic() - began)
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return {"cpu_share_pct": round(100 * share, 4), "allowed_pct": 0.1, "threads": names}


def launch(workload: str) -> dict[str, Any]:
    """How much of a step is the host's: launching alone, with the device waited for, and what in a step waits for it."""
    from pytest_glasshouse.guest.training import import_training

    folder = material(workload)
    import_training(workload, DEVICE)
    trainer, _ = opened(workload, folder)
    trainer.prologue(4)
    trainer.reset(1)
    trainer.step()
    trainer.synchronize()
    steps = 50 if DEVICE == "cuda" else 3
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        trainer.step()
    launched = time.perf_counter() - began
    trainer.synchronize()
    whole, used = time.perf_counter() - began, time.process_time() - cpu
    seconds = {"launch_ms": launched, "step_ms": whole, "cpu_ms": used}
    told: dict[str, Any] = {name: round(1e3 * value / steps, 3) for name, value in seconds.items()}
    if DEVICE == "cuda":
        import warnings

        import torch

        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.step()
        torch.cuda.set_sync_debug_mode("default")
        told["waits_in_a_step"] = sorted({f"{Path(each.filename).name}:{each.lineno}" for each in caught})[:8]
    trainer.close()
    return told


def named(error: BaseException) -> str:
    """An error's name and the beginning of its text."""
    return f"{type(error).__name__}: {error}"[:200]


PROBES: dict[str, Callable[[], dict[str, Any]]] = {
    "nvml": nvml,
    "libraries-mlp": lambda: libraries("mlp"),
    "libraries-lora": lambda: libraries("lora"),
    "pin": pin,
    "idle": idle,
    "launch-mlp": lambda: launch("mlp"),
    "launch-lora": lambda: launch("lora"),
    "out-of-memory": out_of_memory,
}


if __name__ == "__main__":
    from pytest_glasshouse.guest.launcher import harden_process

    harden_process()
    try:
        answer = context() if sys.argv[1] == "context" else PROBES[sys.argv[1]]()
    except Exception:  # noqa: BLE001
        answer = {"error": traceback.format_exc()[-1500:]}
    print(json.dumps(answer, default=str), flush=True)
    # A driver that hangs at the end is no part of a probe.
    os._exit(0)
