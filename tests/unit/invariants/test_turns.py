"""What an agent signed about turns is judged only where it is about the legs of the row."""

from __future__ import annotations

from typing import Any

from pytest_glasshouse.invariants import judge, paused_leg_idle
from pytest_glasshouse.tamper.signed_round import SignedRound
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
