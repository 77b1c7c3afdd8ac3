"""A whole row on a GPU, as far as that can be seen without one: both legs train on a device that behaves like CUDA.

Everything but the device and its driver is real: sealed package, ring, server, journal, evidence, both measurements, scan. NVML is
the stand-in, which shows the same GPU. What a GPU and its driver add is not shown by this.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.guest.machine import Device
from pytest_glasshouse.guest.torch_probe import TorchAnswer
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs import protected
from pytest_glasshouse.owner.sealing import sealing
from pytest_glasshouse.providers import mock
from pytest_glasshouse.wire import tokens
from tests.fake_nvml.driver import LIBRARY, Driver
from tests.rounds.conftest import carry_out, short_row

#: A machine whose torch and NVML name one GPU; legs train on the fake one, through a ring of a few slots. No memory is locked by
#: the kernel there: only the device's driver locks.
_MAIN = """
import ctypes
import sys
sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.agent.main import main
from pytest_glasshouse.guest import leg_main, memory, ring

honest_leg = leg_main.run_leg

def run_leg(control):
    from fake_cuda import FakeCuda

    with FakeCuda():
        return honest_leg(control)

if sys.argv[1] == "agent":
    import pynvml
    from pytest_glasshouse.agent import agent

    pynvml.nvmlLib = ctypes.CDLL(NVML)
    agent.ask_torch = lambda **_: TORCH
leg_main.run_leg = run_leg
memory._lock = lambda address, size: False
ring.ring_for_package.__kwdefaults__["limit"] = 65536
sys.exit(main())
"""
_GPU, _UUID = "Fake CUDA", "GPU-fa4ecada-0000-4000-8000-000000000000"
_TORCH: TorchAnswer = {
    "torch": "2", "built_for": "13.0", "visible": 1, "name": _GPU, "uuid": _UUID, "memory_bytes": 64 << 20, "driver_found": True,
    "error": "", "missing": [],
}  # fmt: skip


def test_invariants_hold_on_a_gpu_and_host_memory_never_holds_the_package(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, canary and last batch are found by the control and gone after the wipe; at no time is there more than the ring."""
    monkeypatch.setattr(protected, "sealing", functools.partial(sealing, segment=4096))
    fake = Path(__file__).parent.parent.joinpath("fake_cuda.py").read_bytes()
    monkeypatch.setattr(mock, "device_here", lambda *_: Device(name="cuda", model=_GPU))
    driver.set(name0=_GPU, uuid0=_UUID)
    given = f"NVML, TORCH = {str(driver.folder / LIBRARY)!r}, {_TORCH!r}\n"
    ran = carry_out(
        short_row(order="protected-first"),
        tmp_path,
        archive=build_archive({"__main__.py": (given + _MAIN).encode(), "fake_cuda.py": fake}),
        torch=True,
    )
    observation = ran.outcome.observation
    assert ran.outcome.ended is None, ran.outcome.ended
    assert {f.invariant: f.reason for f in judge(observation) if f.finding != "held"} == {}
    observed: Any = observation["rounds"][0]["protected"]
    bodies: dict[str, Any] = {entry["type"]: entry["body"] for entry in map(json.loads, observed["journal"])}
    assert tokens.peek(observed["exit"])["gpu"] == {"before": 1 << 30, "after": 0, "of": "process", "reason": ""}
    images: Any = tokens.peek(observed["exit"])["images"]
    assert images == {"status": "unchanged", "late": 0, "changed": []}
    assert bodies["package_verified"]["ring_bytes"] == 65536
    evidence: Any = tokens.peek(observed["evidence"])["memory"]
    assert evidence == {"locked": True, "bytes": 65536}
    assert (bodies["package_verified"]["locked"], bodies["package_verified"]["pinned"]) == (1, 1)
    sealed_bytes = tokens.peek(observed["manifest"])["sealed_bytes"]
    assert bodies["zeroized"]["exposure_peak_bytes"] == 65536 + 32 < int(str(sealed_bytes)) // 4
