"""A whole row whose legs take their material through the ring, as they do where there is a GPU; here the CPU is the device.

Everything but the device is real: sealed package, server, journal, scan. What a GPU adds is not shown by this.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs import protected
from pytest_glasshouse.owner.sealing import sealing
from pytest_glasshouse.wire import tokens
from tests.rounds.conftest import carry_out, short_row

#: Both legs choose the ring, and a ring of a few slots.
_MAIN = """
import sys
sys.path.extend(value for flag, value in zip(sys.argv, sys.argv[1:]) if flag == "--site-packages")
from pytest_glasshouse.agent.main import main
from pytest_glasshouse.guest import protected, raw
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.ring import copy_material_to_device, ring_for_package

protected.Protected._allocate = lambda leg: ring_for_package(leg._package, TorchMemory("cpu"), limit=65536)
raw.Raw._copy_to_arena = lambda leg: copy_material_to_device(leg._material, TorchMemory("cpu"))
sys.exit(main())
"""


def test_invariants_hold_with_the_ring_and_host_memory_never_holds_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, canary and last batch are found by the control and gone after the wipe; at no time is there more than the ring."""
    monkeypatch.setattr(protected, "sealing", functools.partial(sealing, segment=4096))
    ran = carry_out(
        short_row(order="protected-first"), tmp_path, archive=build_archive({"__main__.py": _MAIN.encode()}), torch=True
    )
    observation = ran.outcome.observation
    assert ran.outcome.ended is None
    assert {f.invariant: f.reason for f in judge(observation) if f.finding != "held"} == {}
    observed: Any = observation["rounds"][0]["protected"]
    bodies: dict[str, Any] = {entry["type"]: entry["body"] for entry in map(json.loads, observed["journal"])}
    assert bodies["package_verified"]["ring_bytes"] == 65536
    assert tokens.peek(observed["evidence"])["memory"] == {"locked": True, "bytes": 65536}
    sealed_bytes = tokens.peek(observed["manifest"])["sealed_bytes"]
    assert bodies["zeroized"]["exposure_peak_bytes"] == 65536 + 32 < int(str(sealed_bytes)) // 4
