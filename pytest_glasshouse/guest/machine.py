"""The guest machine as the agent sees it: GPU, driver, interpreter, boot. Values that cannot be read are null."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """One NVIDIA GPU as NVML names it."""

    model: str
    uuid: str
    driver: str
    memory_bytes: int


def gpus() -> tuple[GpuInfo, ...]:
    """Every NVIDIA GPU NVML shows; empty where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            found.append(
                GpuInfo(
                    model=_text(pynvml.nvmlDeviceGetName(handle)),
                    uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
                    driver=driver,
                    memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
                )
            )
        return tuple(found)
    finally:
        pynvml.nvmlShutdown()


def describe() -> dict[str, Json]:
    """GPU, CPU, kernel boot and versions of this machine. `gpuModel` names the device really found."""
    found = gpus()
    gpu = found[0] if found else None
    return {
        "gpuModel": gpu.model if gpu else f"CPU ({cpu_model()})",
        "gpuUuid": gpu.uuid if gpu else None,
        "gpuCount": len(found),
        "driver": gpu.driver if gpu else None,
        "device": "cuda" if gpu else "cpu",
        "bootId": Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
        "peft": _version("peft"),
    }


@cache
def interpreter_sha256() -> str:
    """SHA-256 of the interpreter's executable and, where it has one, its shared library."""
    digest = hashlib.sha256()
    mapped = {
        line.split(maxsplit=5)[5].strip() for line in Path("/proc/self/maps").read_text().splitlines() if "libpython" in line
    }
    for path in (os.path.realpath(sys.executable), *sorted(mapped)):
        with Path(path).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def cpu_model() -> str:
    """The processor's own name, or its architecture."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
