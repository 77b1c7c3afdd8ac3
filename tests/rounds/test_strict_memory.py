"""The strict memory profile reaches both legs alike, and is written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytest_glasshouse.guest.memory import STRICT_ENVIRONMENT
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.wire.canonical import parse_object
from tests.rounds.conftest import Ran, carry_out, short_row


def _environments(ran: Ran) -> list[list[str]]:
    notes: Any = ran.outcome.observation["rounds"][0]
    (completed,) = [line for line in notes["protected"]["journal"] if '"type":"train_completed"' in line]
    body: Any = parse_object(completed)["body"]
    return [each["context"]["environment_names"] for each in (body, notes["raw"]["callback"])]


def test_strict_profile_is_in_both_legs_and_in_the_plan(tmp_path: Path, good_run: Ran) -> None:
    """One leg with another allocator would be another measurement."""
    ran = carry_out(short_row(), tmp_path, strict_memory=True)
    assert [finding.invariant for finding in judge(ran.outcome.observation) if finding.finding != "held"] == []
    assert all(set(STRICT_ENVIRONMENT) <= set(names) for names in _environments(ran))
    assert ran.outcome.observation["plan"]["strictMemory"] is True
    assert not any(set(STRICT_ENVIRONMENT) & set(names) for names in _environments(good_run))
    assert good_run.outcome.observation["plan"]["strictMemory"] is False
