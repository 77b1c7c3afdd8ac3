"""The message of a test that asserts some invariants, about those that did not hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pytest_glasshouse.errors import InvariantBroken
from pytest_glasshouse.invariants import Finding
from pytest_glasshouse.invariants.finding import SEE_ENDING, with_causes
from pytest_glasshouse.invariants.judging import assert_held, table


def test_count_is_of_what_the_test_asserts() -> None:
    """A row is judged by all invariants; a test that asserts two of them shows nothing about the others."""
    states: Any = ("held", "broken")
    asserted: list[Any] = [
        lambda _seen, state=state: Finding(invariant=f"{state} one", finding=state, evidence="", reason="why") for state in states
    ]
    outcome: Any = SimpleNamespace(observation={}, ended=None)
    with pytest.raises(
        InvariantBroken, match=r"^1 of the 2 invariants this test asserts did not hold\n  BROKEN  broken one: why"
    ):
        assert_held(outcome, *asserted)


def test_test_that_names_no_invariant_asserts_every_one_of_its_kind() -> None:
    """A row of which nothing was observed held nothing."""
    outcome: Any = SimpleNamespace(observation={}, ended=None)
    with pytest.raises(InvariantBroken, match=r"^15 of the 15 invariants this test asserts did not hold\n"):
        assert_held(outcome)
    of_turns: Any = SimpleNamespace(observation={"plan": {"null": True}, "rounds": []}, ended=None)
    with pytest.raises(InvariantBroken, match=r"^9 of the 9 invariants"):
        assert_held(of_turns)


def finding(invariant: str, state: Any, todo: str = SEE_ENDING) -> Finding:
    return Finding(invariant=invariant, finding=state, reason="why", evidence="", expected="this", seen="that", todo=todo)


def test_finding_that_lacks_evidence_says_which_one_it_follows_from() -> None:
    """Ten findings said "see how the row ended"."""
    given = [
        finding("attestation verified", "unseen"),
        finding("runtime zeroized", "broken", "end it"),
        finding("losses", "unseen"),
    ]

    found = with_causes(given, {})

    assert [each.todo for each in found] == [SEE_ENDING, "end it", "follows from runtime zeroized"]
    assert table(found)[-1] == "  UNSEEN  losses: why (follows from runtime zeroized)"


@pytest.mark.parametrize(
    ("notes", "cause"),
    [
        ({"protected": {"refusal": {"reason": "composite"}}}, "attestation verified: the server refused the evidence"),
        (
            {"protected": {"failed": {"reason": "no \x1b[2J memory", "detail": ""}}},
            r"the failure of the protected leg: no \x1b[2J memory",
        ),
        ({"protected": None, "raw": {"failed": {"reason": "r", "detail": ""}}}, "the failure of the raw leg: r"),
    ],
)
def test_refusal_and_failure_are_causes(notes: Any, cause: str) -> None:
    (found,) = with_causes([finding("losses", "unseen")], {"rounds": [notes]})

    assert found.todo == f"follows from {cause}"


def test_finding_with_something_of_its_own_to_do_keeps_it() -> None:
    observation: Any = {"rounds": [{"protected": {"refusal": {"reason": "x"}}}]}
    (found,) = with_causes([finding("losses", "unseen", "lock the memory")], observation)

    assert found.todo == "lock the memory"
