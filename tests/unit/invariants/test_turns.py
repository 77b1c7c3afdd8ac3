"""What an agent signed about turns is judged only where it is about the legs of the row."""

from __future__ import annotations

from typing import Any

from pytest_glasshouse.invariants import judge, paused_leg_idle
from pytest_glasshouse.invariants.revisions import judge_as
from pytest_glasshouse.tamper.signed_round import SEGMENT_NS, SignedRound
from pytest_glasshouse.tamper.testbed import TamperTestbed


def _renamed(about: str, content: Any) -> None:
    if about == "borders":
        for name in ("roles", "turns"):
            content[name] = ["raw2" if role == "protected" else role for role in content[name]]


def test_account_without_the_protected_leg_shows_nothing_about_it() -> None:
    """An agent that gives the protected leg another name must not have shown that it was idle."""
    with TamperTestbed() as testbed:
        observed = SignedRound(testbed, turns=("protected", "raw")).observation
        renamed = SignedRound(testbed, _renamed, turns=("protected", "raw")).observation
    assert paused_leg_idle(observed).finding == "held"
    found = {each.invariant: each.finding for each in judge(renamed) if each.finding != "held"}
    assert found == {"paused leg idle": "unseen", "legs in order, not overlapping": "unseen"}


def _longer_turns(about: str, content: Any) -> None:
    """A fifth of a second more passes in each turn of the raw leg."""
    if about == "borders":
        later = 0
        for whose, (before, after) in zip(content["turns"], content["borders"], strict=True):
            before[0] += later
            later += SEGMENT_NS // 5 if whose == "raw" else 0
            after[0] += later


def _waited(about: str, content: Any) -> None:
    """The kernel let leg and agent wait for as long."""
    _longer_turns(about, content)
    if about == "raw stretches":
        for row in content["stretches"]:
            row[-1] = SEGMENT_NS // 5
        content["waitsNs"] = [[0, SEGMENT_NS // 5] for _ in content["stretches"]]


def test_a_turn_in_which_a_leg_waited_for_a_processor_is_no_turn_in_which_it_was_idle() -> None:
    """On a busy machine turns are longer than what is timed in them; the agent signs how long the kernel let it wait."""
    with TamperTestbed() as testbed:
        idle, busy = (SignedRound(testbed, edit, turns=("protected", "raw")).observation for edit in (_longer_turns, _waited))
    found = {each.invariant: each.finding for each in judge(idle) if each.finding != "held"}
    assert found == {"legs in order, not overlapping": "broken", "work witnessed": "broken"}
    assert {each.finding for each in judge(busy)} == {"held"}
    assert "legs in order, not overlapping" in {each.invariant for each in judge_as(busy, 3) if each.finding == "broken"}
