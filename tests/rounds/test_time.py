"""A guest whose clock runs as it likes: what it claims did not pass on the clocks of host and server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.invariants import judge, time_accounted_for
from pytest_glasshouse.observation.results import results
from tests.numpy_guest.archive import numpy_archive_with
from tests.rounds.conftest import Ran, carry_out, short_row

#: The archive of a guest whose legs of one kind report two hours, and as many more units.
_MAIN = """
import dataclasses, sys, traceback

from pytest_glasshouse.agent.main import main
from pytest_glasshouse.workloads import loop

honest = loop.measure


def measure(*given, **named):
    measured = honest(*given, **named)
    if not any(frame.filename.endswith("guest/{leg}.py") for frame in traceback.extract_stack()):
        return measured
    return dataclasses.replace(measured, units=measured.units * 36_000, elapsed_ns=measured.elapsed_ns * 36_000)


loop.measure = measure
sys.exit(main())
"""


@pytest.mark.parametrize("leg", ["protected", "raw"])
def test_two_hours_claimed_by_a_short_leg_are_not_accounted_for(leg: str, tmp_path: Path) -> None:
    """Other clocks than the leg's contradict it, and so does its agent; signatures and order of such a row are right."""
    ran = carry_out(
        short_row(target_s=0.2), tmp_path, archive=numpy_archive_with({"__main__.py": _MAIN.format(leg=leg).encode()})
    )

    assert ran.outcome.ended is None
    claimed = getattr(results(ran.outcome.observation)[0], leg)
    assert claimed.elapsed_ns > 7_000_000_000_000
    broken = {each.invariant for each in judge(ran.outcome.observation) if each.finding == "broken"}
    assert broken == {"time accounted for", "work witnessed"}
    assert f"the {leg} leg claims" in time_accounted_for(ran.outcome.observation).reason


def test_clocks_around_the_legs_of_a_round_follow_its_order(good_run: Ran) -> None:
    """From the round's beginning: the second leg is started when the first one's exit is here."""
    observed: Any = good_run.outcome.observation
    for notes in observed["rounds"]:
        first, second = (notes[leg]["host"] for leg in notes["order"])
        assert 0 <= first["startNs"] < first["exitNs"] <= second["startNs"] < second["exitNs"]
