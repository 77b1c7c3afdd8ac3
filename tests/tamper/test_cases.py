"""Every case of the tamper suite holds, and the suite has what was published."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.tamper import cheats, observation, rank_cases, turns
from pytest_glasshouse.tamper.case import Case, _control, attack, run_case
from pytest_glasshouse.tamper.result import TamperResult
from pytest_glasshouse.tamper.suite import CASES
from pytest_glasshouse.tamper.testbed import TamperTestbed

PUBLISHED = {
    "composite-hash-mismatch": "composite",
    "manifest-hash-mismatch": "manifest",
    "container-id-mismatch": "container",
    "stale-timestamp": "stale",
    "anti-debug-disabled": "antidebug-disabled",
    "runtime-state-spoofed": "state",
    "anti-debug-profile-downgrade": "antidebug-downgrade",
    "nonce-replay": "nonce",
    "jwt-claim-mismatch": "jwt-claims",
    "control": None,
}


def test_the_published_scenarios_come_first_each_with_its_own_reason() -> None:
    published = [case for case in CASES if case.published]
    assert {case.name: case.expected_reason for case in published} == PUBLISHED
    assert tuple(published) == CASES[: len(PUBLISHED)]
    assert len({case.expected_reason for case in published}) == len(PUBLISHED)


def test_names_are_unique() -> None:
    played = (*CASES, *cheats.CASES)
    assert len({case.name for case in played}) == len(played)


def test_only_the_control_is_released() -> None:
    assert [case.name for case in CASES if case.expected_reason is None] == ["control"]


#: Cases that change a finished round, which is signed anew and judged for each: no server is asked about it.
_OF_A_ROUND = {name for edits in (observation.EDITS, turns.EDITS, rank_cases.EDITS, cheats.EDITS) for name in edits}


@pytest.fixture(scope="module")
def signing() -> Iterator[Callable[[Case], TamperResult]]:
    """One testbed, whose control was released, for all cases that need only its keys."""
    with TamperTestbed() as testbed:
        testbed.caps = Caps(open_challenges=2048)  # each round is challenged, and none of them is released
        testbed.restart()
        released = _control(testbed)
        yield lambda case: attack(case, testbed, control_released=released)


@pytest.mark.parametrize("case", [*CASES, *cheats.CASES], ids=lambda case: case.name)
def test_case_is_refused_as_it_says(case: Case, signing: Callable[[Case], TamperResult]) -> None:
    result = signing(case) if case.name in _OF_A_ROUND else run_case(case)
    assert result.passed, result


def test_a_case_that_is_released_does_not_pass() -> None:
    """The suite can fail: a mutation that is not refused is reported as released."""
    harmless = Case(
        name="harmless", play=lambda testbed: testbed.attempt().run_lifecycle(), expected_reason="composite", caught_by="nobody"
    )
    result = run_case(harmless)
    assert (result.seen_reason, result.released, result.passed) == (None, True, False)


def test_a_refusal_for_another_reason_does_not_pass() -> None:
    composite = next(case for case in CASES if case.name == "composite-hash-mismatch")
    mistaken = Case(name="mistaken", play=composite.play, expected_reason="manifest", caught_by="nobody")
    assert not run_case(mistaken).passed


def test_a_wrong_statement_about_the_nonce_does_not_pass() -> None:
    composite = next(case for case in CASES if case.name == "composite-hash-mismatch")
    mistaken = Case(name="mistaken", play=composite.play, expected_reason="composite", caught_by="nobody", nonce="open")
    result = run_case(mistaken)
    assert (result.seen_nonce, result.passed) == ("spent", False)
