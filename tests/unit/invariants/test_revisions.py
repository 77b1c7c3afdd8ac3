"""An old report is judged by the invariants of its time, so that one which reads more later does not make it faulty."""

from __future__ import annotations

import pytest

from pytest_glasshouse.invariants import ALL, Finding, judge
from pytest_glasshouse.invariants.revisions import REVISIONS, Revision, invariants_of, judge_as, newest
from pytest_glasshouse.observation.document import Observation
from pytest_glasshouse.tamper.signed_round import SignedRound
from pytest_glasshouse.tamper.testbed import TamperTestbed


def tidy(_: Observation) -> Finding:
    return Finding(invariant="tidy", finding="held", reason="as it is now", evidence="3")


def quiet(_: Observation) -> Finding:
    return Finding(invariant="quiet", finding="held", reason="added by revision 3", evidence="q")


def tidy_of_2(_: Observation) -> Finding:
    return Finding(invariant="tidy", finding="held", reason="as it was in 2", evidence="2")


def tidy_of_1(_: Observation) -> Finding:
    return Finding(invariant="tidy", finding="held", reason="as it was in 1", evidence="1")


STEPS = (
    Revision(number=2, before={"tidy": tidy_of_1}),
    Revision(number=3, before={"tidy": tidy_of_2}, added=frozenset({"quiet"})),
)


@pytest.mark.parametrize(("revision", "names"), [(1, [tidy_of_1]), (2, [tidy_of_2]), (3, [tidy, quiet])])
def test_revision_has_the_functions_of_its_time(revision: int, names: list[object]) -> None:
    assert list(invariants_of(revision, revisions=STEPS, now=(tidy, quiet))) == names


@pytest.mark.parametrize("revision", [0, 4])
def test_revision_that_is_not_known_is_refused(revision: int) -> None:
    with pytest.raises(ValueError, match="is not one of 1 to 3"):
        invariants_of(revision, revisions=STEPS, now=(tidy, quiet))


def test_newest_revision_is_what_judges() -> None:
    assert invariants_of(newest()) == ALL
    assert judge_as({"rounds": []}, newest()) == judge({"rounds": []})
    assert "paused_leg_idle" not in {getattr(each, "__name__", "") for each in invariants_of(1)}
    assert [step.number for step in REVISIONS] == list(range(2, newest() + 1))
    every = {getattr(each, "__name__", "") for each in ALL}
    assert all({*step.before, *step.added} <= every for step in REVISIONS)


def test_first_revision_says_nothing_about_rounds_without_a_protected_leg() -> None:
    """It knew rounds of a protected and a raw leg; no other may hold by a rule that was not made for it."""
    before = {getattr(each, "__name__", ""): each for each in invariants_of(1)}["_same_work_1"]
    with TamperTestbed() as testbed:
        observation = SignedRound(testbed).observation
    assert before(observation).finding == "held"
    observation["rounds"][0]["order"] = ["raw", "raw2"]
    found = before(observation)
    assert (found.finding, found.reason) == ("unseen", "revision 1 of the invariants knows rounds of a protected and a raw leg")
