"""Builds the library of `nvml.c` and says what its settings mean. Each test gets a folder of its own with library and settings.

A process finds it where LD_LIBRARY_PATH leads, as it finds the driver in some containers; `pynvml` in this process uses it
without that.

    init, driver, counting, naming, uuid, memory, processes, clock, temperature, power, energy, event_reasons,
    throttle_reasons, handleN          what a call answers: ok, bad-argument, not-supported, no-permission, not-loaded, not-there,
                                       lost, mismatch
    count, nameN, uuidN, driver_version  the GPUs
    init_ms                            how long initialising takes
    leg_bytes, legs_on                 the memory that each leg of the asking agent has, and on which GPU
    listed                             the process list: own, none (as in containers), host (pids of the host's namespace)
    linger_s, drift, used              memory that stays after a leg, for good after the first leg, and at once
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest

LIBRARY = "libnvidia-ml.so.1"
UUID = "GPU-00000000-0000-4000-8000-00000000000{}"
H100, A4000 = "NVIDIA H100 80GB HBM3", "NVIDIA RTX A4000"

#: What drivers were seen to do, or may do by their reference, by a name.
SETTINGS: Mapping[str, Mapping[str, object]] = MappingProxyType({
    "one": {},
    "two": {"count": 2, "name0": A4000, "name1": H100, "legs_on": 1},
    "no-list": {"listed": "none"},
    "host-pids": {"listed": "host"},
    "drift": {"listed": "none", "drift": 2 << 20},
    "lingers": {"listed": "none", "linger_s": 120},
    "lost": {"count": 2, "handle1": "lost"},
    "no-memory": {"memory": "not-supported"},
    "no-memory-no-list": {"memory": "not-supported", "listed": "none"},
    "list-missing": {"processes": "not-there"},
    "list-forbidden": {"processes": "no-permission"},
    "list-unsupported": {"processes": "not-supported"},
    "old-reasons": {"event_reasons": "not-there", "energy": "not-supported"},
    "no-names": {"naming": "not-supported", "uuid": "no-permission", "driver": "not-there"},
    "slow": {"init_ms": 1500},
    "mismatch": {"init": "mismatch"},
    "not-loaded": {"init": "not-loaded"},
    "none": {"count": 0},
})  # fmt: skip
#: Those with which NVML shows no GPU that could be used.
UNUSABLE = ("mismatch", "not-loaded", "none")


def build(cache: Path) -> Path:
    """The library, compiled once below `cache`. Without a compiler the test is skipped, and fails where CI is set."""
    source = Path(__file__).with_name("nvml.c")
    built = cache / hashlib.sha256(source.read_bytes()).hexdigest()[:16] / LIBRARY
    if built.exists():
        return built
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        missing = "expected gcc to build the stand-in for NVML; saw no C compiler on PATH (Debian: gcc and libc6-dev)"
        if os.environ.get("CI"):
            pytest.fail(f"{missing}; .ci/run installs it")
        pytest.skip(missing)
    built.parent.mkdir(parents=True, exist_ok=True)
    # Renamed into place: another worker may be building it, too.
    own = built.with_name(f"{os.getpid()}.so")
    # Without a soname: a process that has loaded it by its path still finds no NVML by its name.
    command = [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(own), str(source)]
    subprocess.run(command, check=True)
    own.rename(built)
    return built


class Driver:
    """The stand-in in a folder of its own."""

    def __init__(self, library: Path, folder: Path, **settings: object) -> None:
        self.folder = folder
        shutil.copyfile(library, folder / LIBRARY)
        # A stand-in for CUDA's own library too, of which nothing is called.
        shutil.copyfile(library, folder / "libcuda.so.1")
        self.set(**settings)

    def set(self, **settings: object) -> None:
        """Use these settings from the next call on, and no others."""
        written = self.folder / "nvml.conf.new"
        written.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        written.rename(self.folder / "nvml.conf")

    @cached_property
    def pynvml(self) -> Any:
        """The real pynvml, as a module of its own that uses this library."""
        module = fresh_pynvml()
        module.__dict__["nvmlLib"] = ctypes.CDLL(str(self.folder / LIBRARY))
        return module


def fresh_pynvml() -> ModuleType:
    """Another copy of the real pynvml, with no library loaded."""
    found = importlib.util.find_spec("pynvml")
    assert found is not None
    assert found.origin is not None
    spec = importlib.util.spec_from_file_location(f"pynvml_{secrets.token_hex(4)}", found.origin)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # It looks itself up there while it is made.
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[spec.name]
    return module


@contextlib.contextmanager
def running_leg() -> Iterator[int]:
    """A process that the stand-in takes for a leg of this process, as an agent's: as many forks away, with the same arguments."""
    code = """
import os, sys
for _ in range(3):
    if pid := os.fork():
        os.waitpid(pid, 0)
        sys.exit()
print(os.getpid(), flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-I", "-S", "-c", code, "launcher", "--control", "3"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        yield int(launcher.stdout.readline())
