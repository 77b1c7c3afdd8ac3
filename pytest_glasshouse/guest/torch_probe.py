"""Which GPU torch trains on, asked in a process of its own: one that used CUDA keeps a context on the device until it ends.

NVML shows GPUs that torch cannot use (a build without CUDA, a driver that is too old, one hidden by a variable), so it is torch
that decides. The asked process imports and sees what a leg will: `-I -S`, the same folders, the same variables.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, TypedDict

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.wire.foreign_text import foreign_text
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Of the starter's variables, those that choose the GPU and find its driver reach the agent and its legs.
DEVICE_VARIABLES = ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
#: What agent and legs import beside torch.
NEEDED = ("cryptography", "joserfc", "rfc8785", "safetensors", "numpy", "pynvml")
TRAINING = ("torch", "transformers", "peft")
#: Importing torch from a cold network disk takes minutes.
_ASKED_S = 300.0
_TEXT = 300
_ANSWER_BYTES = 1 << 16


class TorchAnswer(TypedDict):
    """What the asked process found. `error` is empty where `name` is a GPU that computes; `missing` are imports that failed."""

    torch: str
    built_for: str
    visible: int
    name: str
    uuid: str
    memory_bytes: int
    driver_found: bool
    error: str
    missing: list[str]


class ProbeFailedError(Exception):
    """The process ended without an answer; one line why."""


def device_variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of `environ` by which a guest finds its GPU. Numbers are those of the PCI bus, as in nvidia-smi."""
    found = {name: environ[name] for name in DEVICE_VARIABLES if name in environ}
    return {**found, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def ask_torch(*, archive_fd: int, site_packages: Sequence[str], environ: Mapping[str, str]) -> TorchAnswer:
    """Ask a process that runs the guest archive behind `archive_fd`. Raises `ProbeFailedError`."""
    # The asked process has to get as far as to say which packages are missing, this module's own among them.
    from pytest_glasshouse.wire.canonical import parse_object

    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", f"/proc/self/fd/{archive_fd}", "device"]
    for directory in site_packages:
        command += ["--site-packages", directory]
    environment = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **device_variables(environ)}
    try:
        asked = subprocess.run(  # noqa: S603
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_ASKED_S,
            pass_fds=(archive_fd,),
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ProbeFailedError(foreign_text(f"a process that asks torch for its GPU failed: {error}", limit=_TEXT)) from None
    line = asked.stdout.strip().rpartition(b"\n")[2]
    try:
        return check_typed(parse_object(line, limit=_ANSWER_BYTES), TorchAnswer, "answer")
    except GlasshouseError:
        said = asked.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        how = f"status {asked.returncode}{': ' if said else ''}{''.join(said)}"
        raise ProbeFailedError(foreign_text(f"a process that asks torch for its GPU ended with {how}", limit=_TEXT)) from None


def answer() -> int:
    """The asked process: one line of JSON."""
    found = TorchAnswer(
        torch="", built_for="", visible=0, name="", uuid="", memory_bytes=0, driver_found=False, error="", missing=[]
    )
    for name in (*NEEDED, *TRAINING):
        if reason := _import_error(name):
            found["missing"].append(reason)
    try:
        _ask(found)
    except Exception as error:  # noqa: BLE001  (torch raises what it likes, and the reason is what is asked for)
        found["error"] = foreign_text(error, limit=_TEXT) or type(error).__name__
    os.write(1, json.dumps(found).encode() + b"\n")
    return 0


def _import_error(name: str) -> str:
    try:
        # transformers and peft take seconds to import, and fail for what they need only when it is used.
        if name in TRAINING[1:]:
            return "" if importlib.util.find_spec(name) is not None else f"No module named '{name}'"
        importlib.import_module(name)
    except Exception as error:  # noqa: BLE001  (a broken package raises anything)
        return foreign_text(f"{name}: {error}", limit=_TEXT)
    return ""


def _ask(found: TorchAnswer) -> None:
    """Fill in what torch says; what it raises is the reason."""
    try:
        ctypes.CDLL("libcuda.so.1")
        found["driver_found"] = True
    except OSError:
        pass
    torch: Any = importlib.import_module("torch")
    found["torch"] = foreign_text(getattr(torch, "__version__", ""), limit=64)
    version = getattr(torch, "version", None)
    found["built_for"] = foreign_text(getattr(version, "cuda", None) or "", limit=64)
    if not found["built_for"]:
        return
    found["visible"] = int(torch.cuda.device_count())
    torch.cuda.init()
    properties = torch.cuda.get_device_properties(0)
    # A build without kernels for this GPU shows it, and fails at the first one.
    torch.ones(2, device="cuda").sum().item()
    found["name"] = foreign_text(properties.name, limit=96)
    found["uuid"] = foreign_text(getattr(properties, "uuid", ""), limit=64)
    found["memory_bytes"] = int(properties.total_memory)
