"""A journal that is linked, signed for and countersigned, and has other steps than a lifecycle, is not accepted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pytest_glasshouse.invariants import journal_countersigned
from pytest_glasshouse.invariants.revisions import judge_as
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.tamper.signed_round import SignedRound
from pytest_glasshouse.tamper.testbed import TamperTestbed

Change = Callable[[list[Any]], object]
#: Journals that revision 2 took: steps missing, in another order, twice, or unknown.
JOURNALS: dict[str, Change] = {
    "the package never opened": lambda entries: entries.pop(3),
    "the adapter never exported": lambda entries: entries.pop(6),
    "exported before it trained": lambda entries: entries.insert(4, entries.pop(6)),
    "trained twice": lambda entries: entries.insert(6, entries[5]),
    "key received twice": lambda entries: entries.insert(3, entries[2]),
    "a step nobody knows": lambda entries: entries.insert(4, ["debugger_attached", {}]),
    "progress after training": lambda entries: entries.insert(6, ["train_progress", {}]),
}


def _observed(change: Change) -> Any:
    def edit(about: str, content: Any) -> None:
        if about == "entries":
            change(content)

    with TamperTestbed() as testbed:
        return SignedRound(testbed, edit).observation


@pytest.mark.parametrize("name", JOURNALS)
def test_journal_that_is_no_lifecycle_is_not_countersigned(name: str) -> None:
    observation = _observed(JOURNALS[name])
    found = journal_countersigned(observation)
    assert (found.finding, "whole lifecycle" in found.reason) == ("broken", True)


@pytest.mark.parametrize("name", JOURNALS)
def test_journal_that_is_no_lifecycle_is_countersigned_under_revision_2(name: str) -> None:
    """Why there is another one; and reports of that time are judged as they were."""
    observation = _observed(JOURNALS[name])
    found = {each.invariant: each.finding for each in judge_as(observation, 2)}
    assert found["journal countersigned"] == "held"


@pytest.mark.parametrize("name", JOURNALS)
def test_journal_that_is_no_lifecycle_gives_no_figures(name: str) -> None:
    observation = _observed(JOURNALS[name])
    observation["rounds"][0]["raw"] = None
    (one,) = results(observation)
    assert one.protected is None


def test_progress_during_training_is_part_of_a_lifecycle() -> None:
    assert journal_countersigned(_observed(lambda entries: entries.insert(5, ["train_progress", {}]))).finding == "held"
