"""Real legs that lie about their work and time: each lie is named by its finding. What no finding sees: `test_replay.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pytest_glasshouse.attacks.lies import LIES
from pytest_glasshouse.attacks.lying_legs import (
    LEGS,
    WITNESSED,
    LyingGuest,
    LyingLeg,
    LyingLegs,
    archive_of_all,
)
from tests.numpy_guest.archive import numpy_archive_with
from tests.numpy_guest.bytecode import use_kept

_SEEN = [each for each in LEGS if each.seen_by == WITNESSED]
#: One for each defence that only a real leg shows at work; all of them with SOAK=1, and `-m cheat` plays all on torch.
_PLAYED = [
    each for each in _SEEN
    if os.environ.get("SOAK") or each.lie in {"clock-slower-later", "no-training-after-step-3", "niced-while-timed"}
]  # fmt: skip


@pytest.fixture(scope="module", name="legs")
def legs_that_lie() -> Iterator[LyingLegs]:
    """One numpy guest for all of them. Its control is a row of it without a lie."""
    with LyingGuest(archive_of_all(numpy_archive_with), prepare=lambda provider: use_kept(provider, "numpy")) as guest:
        yield LyingLegs(guest)


@pytest.mark.soak
@pytest.mark.parametrize("case", _PLAYED, ids=lambda case: case.name)
def test_a_leg_that_lies_is_named(case: LyingLeg, legs: LyingLegs) -> None:
    found = legs.play(case, others=lambda _observation: ())
    assert found.passed, str(found)


def test_every_lie_is_played() -> None:
    assert {each.lie for each in LEGS} == set(LIES)
