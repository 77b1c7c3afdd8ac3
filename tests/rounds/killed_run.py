"""The engine of a run that is killed in the middle of its third leg: that one trains for an hour, whatever it is told."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pytest_glasshouse.broker.broker import Broker
from pytest_glasshouse.channel.archive import build_archive
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.run.engine import Engine
from tests.numpy_guest.archive import numpy_archive_with
from tests.numpy_guest.bytecode import use_kept

#: What a project's conftest.py needs for it; the root of this repository has to be importable.
CONFTEST = """
from pytest_glasshouse.plugin.stash import ENGINE
from tests.rounds.killed_run import KilledEngine

def pytest_configure(config):
    config.stash[ENGINE] = KilledEngine()
"""
_MAIN = """
import sys
from pathlib import Path

from pytest_glasshouse.agent.main import main
from pytest_glasshouse.workloads import loop

honest = loop.measure


def measure(*given, target_s, **named):
    begun = Path.cwd().parents[1] / "begun"
    with begun.open("a") as file:
        file.write("x")
    return honest(*given, target_s=3600 if begun.stat().st_size == 3 else target_s, **named)


loop.measure = measure
sys.exit(main())
"""


def variables(*, torch: bool, kept: Path) -> dict[str, str]:
    """What its process is told: what its guests train with, and where byte code is kept."""
    return {"GUEST_KIND": "torch" if torch else "numpy", "GUEST_BYTECODE": str(kept)}


class KilledEngine(Engine):
    """The product's, but for the guest's archive and what guests find compiled."""

    def broker(self, *given: Any, **named: Any) -> Broker:
        broker = super().broker(*given, **named)
        kind = os.environ["GUEST_KIND"]
        build = {"torch": build_archive, "numpy": numpy_archive_with}[kind]
        provider = MockProvider(archive=build({"__main__.py": _MAIN.encode()}))
        use_kept(provider, kind, below=Path(os.environ["GUEST_BYTECODE"]))
        broker._fleet.providers["mock"] = provider
        return broker
