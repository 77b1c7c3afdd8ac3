"""A guest whose torch has a GPU: everything in it is the product's, but its legs compute with numpy on the CPU.

Its `torch` answers what the product asks before it trains; the order and names of its GPUs are those of the stand-in driver. As
CUDA does, it numbers the fastest GPU first unless CUDA_DEVICE_ORDER says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest_glasshouse
from pytest_glasshouse.channel.archive import GUEST_MAIN
from tests.fake_nvml.driver import H100, UUID
from tests.numpy_guest.archive import numpy_archive_with

_TORCH = """
import ctypes
import os
import time

if {loads_driver!r}:
    ctypes.CDLL("libcuda.so.1")
__version__ = "0+cu130"
GPUS = {gpus!r}


class version:
    cuda = {built_for!r}


class _Properties:
    total_memory = 85 << 30

    def __init__(self, name, uuid):
        self.name, self.uuid = name, uuid


def GPUS_NOW():
    order = GPUS if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" else GPUS[::-1]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return order
    return [order[int(each)] for each in chosen.split(",") if each.isdigit() and int(each) < len(order)]


class cuda:
    @staticmethod
    def device_count():
        return len(GPUS_NOW())

    @staticmethod
    def init():
        if not GPUS_NOW() or {error!r}:
            raise RuntimeError({error!r} or "No CUDA GPUs are available")

    class Event:
        # Of a device that has come to every place that is marked.

        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = time.perf_counter()

        def elapsed_time(self, later):
            return 1000 * (later.at - self.at)

    @staticmethod
    def current_device():
        return 0

    @staticmethod
    def get_device_properties(index):
        return _Properties(*GPUS_NOW()[index])


class ones:
    def __init__(self, size, device):
        self.size = size

    def sum(self):
        return self

    def item(self):
        return self.size
"""

_FACTS = """


def _gpu_facts():
    import torch

    name, uuid = {trained_on!r} or torch.GPUS_NOW()[0]
    return {{"device": name, "deviceUuid": "GPU-" + uuid if uuid else None}}
"""


def cuda_archive(
    gpus: Sequence[str] = (H100,), *, built_for: str | None = "13.0", error: str = "", uuids: Sequence[str] = (),
    trained_on: Sequence[str] = (), loads_driver: bool = False,
) -> bytes:  # fmt: skip
    """The archive of such a guest with these GPUs.

    `error` is what torch raises in place of using one. `trained_on` (name and UUID) is what legs say in place of the truth. With
    `loads_driver` it loads CUDA's driver library, as the real one does, and fails where the loader finds none.
    """
    bare = [UUID.format(index).removeprefix("GPU-") for index in range(len(gpus))]
    torch = _TORCH.format(
        gpus=list(zip(gpus, uuids or bare, strict=True)), built_for=built_for, error=error, loads_driver=loads_driver
    )
    tests, product = Path(__file__).parents[1], Path(pytest_glasshouse.__file__).parent
    trainer = _edited(tests / "numpy_guest" / "mlp.py", '"device": "cpu",', "**_gpu_facts(),")
    trainer += _FACTS.format(trained_on=tuple(trained_on))
    legs = {
        f"pytest_glasshouse/guest/{leg}.py": _edited(
            product / "guest" / f"{leg}.py", 'self._plan = order["plan"]', 'self._plan = {**order["plan"], "device": "cpu"}'
        ).encode()
        for leg in ("protected", "raw")
    }
    # Their arithmetic is the CPU's, and their clock the stand-in's.
    legs["pytest_glasshouse/guest/training.py"] = _edited(
        product / "guest" / "training.py", 'cuda.clock_of(plan["device"])', 'cuda.clock_of("cuda")'
    ).encode()
    return numpy_archive_with({
        "__main__.py": GUEST_MAIN.encode(), "torch.py": torch.encode(), "pytest_glasshouse/workloads/mlp.py": trainer.encode(), **legs,
    })  # fmt: skip


def _edited(path: Path, before: str, after: str) -> str:
    source = path.read_text(encoding="utf-8")
    assert source.count(before) == 1, f"{path.name} has changed: {before}"
    return source.replace(before, after)
