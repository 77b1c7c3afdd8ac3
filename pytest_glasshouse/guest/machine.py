"""The guest machine as the agent sees it: device, driver, interpreter, boot. Values that cannot be read are null."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.nvml import NO_DRIVER, Gpu, Nvml
from pytest_glasshouse.guest.torch_probe import ProbeFailedError, TorchAnswer
from pytest_glasshouse.wire.evidence import MOST_RANKS
from pytest_glasshouse.wire.guest_messages import DETAIL
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.base import DeviceName

#: A UUID without what NVML writes before it.
_UUID = re.compile(r"[0-9a-z/-]{8,60}")
#: The driver's control node: a container may have it without NVML.
_CONTROL_NODE = Path("/dev/nvidiactl")


@dataclass(frozen=True, kw_only=True)
class Device:
    """What legs train on here. What cannot be read is None.

    `nvml_index` is the GPU's place in NVML; `why_cpu` says in one line why the CPU is used although there is a driver, `no_gpu`
    why there is no GPU to use, whether or not there is a driver.
    """

    name: DeviceName
    model: str
    uuid: str | None = None
    driver: str | None = None
    gpu_count: int = 0
    nvml_index: int | None = None
    why_cpu: str = ""
    no_gpu: str = ""

    @property
    def ranks(self) -> int:
        """How many ranks a leg can have here: one for each GPU, of which one is this; on the CPU, as many as a leg may have."""
        return max(1, self.gpu_count) if self.name == "cuda" else MOST_RANKS


def find_device(nvml: Nvml, ask: Callable[[], TorchAnswer], environ: Mapping[str, str]) -> Device:
    """The GPU that torch trains on, named as NVML names it, or the CPU with the reason.

    `ask` asks torch in a process of its own; it is not called where there is no sign of a driver. `environ` are the variables
    that the asked process gets. Never raises.
    """
    shown, driver = nvml.gpus(), nvml.driver().value
    if not shown and nvml.reason == NO_DRIVER and not _CONTROL_NODE.exists():
        return _cpu(no_gpu=NO_DRIVER)
    try:
        torch = ask()
    except ProbeFailedError as error:
        why = str(error)
    else:
        if torch["name"] and not torch["error"]:
            return _gpu(torch, shown, driver)
        why = _why_not(torch, shown, nvml, environ)
    why = printable(why, limit=DETAIL)
    return _cpu(no_gpu=why, why_cpu=why, driver=driver, gpu_count=len(shown))


def _gpu(torch: TorchAnswer, shown: Sequence[Gpu], driver: str | None) -> Device:
    """The first GPU of torch, found among NVML's by its UUID; where only one is there, it is that one."""
    own = torch["uuid"].lower().removeprefix("gpu-").removeprefix("mig-")
    own = own if _UUID.fullmatch(own) else ""
    uuids = {gpu.index: gpu.uuid().value for gpu in shown}
    same = [gpu for gpu in shown if own and (uuids[gpu.index] or "").lower().endswith(own)]
    if not same and len(shown) == 1 and torch["visible"] == 1 and not (own and uuids[0]):
        same = [*shown]
    model = same[0].model().value if same else None
    uuid = uuids[same[0].index] if same else None
    return Device(
        name="cuda",
        model=model or torch["name"],
        uuid=uuid or (f"GPU-{own}" if own else None),
        driver=driver,
        gpu_count=max(len(shown), torch["visible"]),
        nvml_index=same[0].index if same else None,
    )


@dataclass(frozen=True, kw_only=True)
class RankGpu:
    """The GPU of one rank: what CUDA_VISIBLE_DEVICES is for it, and its place in NVML where that is known."""

    visible: str
    nvml_index: int | None


def rank_gpu(rank: int, shown: Sequence[Gpu], environ: Mapping[str, str]) -> RankGpu:
    """The GPU of a rank among those that NVML has `shown`: of those that CUDA_VISIBLE_DEVICES leaves, the one in its place.

    Numbers are those of the PCI bus, as NVML's are. Raises `ProtocolError` where there are not as many.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(gpu.index) for gpu in shown] if listed is None else [name.strip() for name in listed.split(",") if name.strip()]
    if rank >= len(names):
        raise ProtocolError(f"expected a GPU for rank {rank}; saw {len(names)} that torch may use")
    name = names[rank]
    if name.isdigit():
        return RankGpu(visible=name, nvml_index=int(name) if int(name) < len(shown) else None)
    found = [gpu.index for gpu in shown if (gpu.uuid().value or "").lower().startswith(name.lower())]
    return RankGpu(visible=name, nvml_index=found[0] if len(found) == 1 else None)


def _cpu(**fields: Any) -> Device:
    return Device(name="cpu", model=f"CPU ({cpu_model()})", **fields)


def _why_not(torch: TorchAnswer, shown: Sequence[Gpu], nvml: Nvml, environ: Mapping[str, str]) -> str:
    """Which of torch, its build, the driver, the container or a variable keeps torch from the GPU, and what to do."""
    version, error = torch["torch"], torch["error"] or "it shows none"
    hidden = printable(environ.get("CUDA_VISIBLE_DEVICES", ""), limit=80)
    driver = "the driver is not loaded or was updated (restart), or this container was given no GPU"
    causes = (
        (not version, f"torch cannot be imported ({error}); pip install 'pytest-glasshouse[train]'"),
        (not torch["built_for"], f"torch {version} is built without CUDA; install a build for CUDA"),
        (nvml.reason not in {"", NO_DRIVER}, f"{nvml.reason}; {driver} ({error})"),
        (
            "CUDA_VISIBLE_DEVICES" in environ and torch["visible"] == 0 and shown,
            f"CUDA_VISIBLE_DEVICES={hidden!r} leaves torch none of the {len(shown)} GPUs that NVML shows",
        ),
        (
            not torch["driver_found"],
            "the loader finds no libcuda.so.1; name its folder in LD_LIBRARY_PATH, or give the container the driver's libraries",
        ),
        (not shown and not nvml.reason, f"NVML shows no GPU: this container was given none ({error})"),
    )
    found = f"torch {version} for CUDA {torch['built_for']} cannot use the GPU: {error}"
    return next((text for applies, text in causes if applies), found)


def describe(device: Device) -> dict[str, Json]:
    """GPU, CPU, kernel boot and versions of this machine. `gpuModel` names the device that legs train on."""
    return {
        "gpuModel": device.model,
        "gpuUuid": device.uuid,
        "gpuCount": device.gpu_count,
        "driver": device.driver,
        "device": device.name,
        **({"deviceReason": device.why_cpu} if device.why_cpu else {}),
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
