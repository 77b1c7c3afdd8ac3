"""Real legs that lie about their work and time: each lie is named by its finding, or by training the leg again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from pytest_glasshouse.attacks.lies import LIES
from pytest_glasshouse.attacks.lying_legs import (
    LEGS,
    WITNESSED,
    LyingGuest,
    LyingLeg,
    LyingLegs,
    archive_of_all,
    lying_archive,
)
from pytest_glasshouse.cli.replay import Replayed, replay
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.observation.document import Observation
from tests.numpy_guest.archive import numpy_archive_with

_SEEN = [each for each in LEGS if each.seen_by == WITNESSED]
#: One for each defence that only a real leg shows at work; all of them with SOAK=1, and `-m cheat` plays all on torch.
_PLAYED = [
    each for each in _SEEN
    if os.environ.get("SOAK") or each.lie in {"clock-slower-later", "no-training-after-step-3", "niced-while-timed"}
]  # fmt: skip


def _broken(observation: Observation) -> dict[str, str]:
    return {each.invariant: each.reason for each in judge(observation) if each.finding == "broken"}


@pytest.fixture(scope="module", name="legs")
def legs_that_lie() -> Iterator[LyingLegs]:
    """One numpy guest for all of them. Its control is a row of it without a lie."""
    with LyingGuest(archive_of_all(numpy_archive_with)) as guest:
        yield LyingLegs(guest)


@pytest.mark.soak
@pytest.mark.parametrize("case", _PLAYED, ids=lambda case: case.name)
def test_a_leg_that_lies_is_named(case: LyingLeg, legs: LyingLegs) -> None:
    found = legs.play(case, others=lambda _observation: ())
    assert found.passed, str(found)


def test_every_lie_is_played() -> None:
    assert {each.lie for each in LEGS} == set(LIES)


def _trained_again(lies: dict[str, str]) -> Sequence[Replayed]:
    row = LyingLeg(lie="", steps=60).row
    with LyingGuest(lying_archive({0: lies})) as guest:
        observation = guest.carry_out(row)
    assert _broken(observation) == {}
    document: Any = {"rows": [{"rowId": "a-row", "observation": observation}], "nullRows": []}
    return list(replay(document, 9))


@pytest.mark.torch
@pytest.mark.parametrize(
    "lies",
    [
        {"protected": "one-step-skipped", "raw": "one-weight-changed"},
        {"protected": "one-batch-elsewhere", "raw": "every-50th-step-skipped"},
        *([{"protected": "bfloat16-after-the-prologue"}] if os.environ.get("SOAK") else []),
    ],
    ids=lambda lies: " ".join(lies.values()),
)
@pytest.mark.soak
def test_a_lie_that_no_finding_sees_is_seen_where_the_leg_is_trained_again(lies: dict[str, str]) -> None:
    """One step, one weight, one batch: everything else is as it should be."""
    found = {each.leg: each for each in _trained_again(lies)}
    for leg, replayed in found.items():
        assert replayed.equal is (leg not in lies), str(replayed)
        assert leg not in lies or "the leg did not train what it reports" in replayed.reason
