"""Losses of legs that took unlike numbers of steps are compared by what was seen of them, not by a line between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from pytest_glasshouse.invariants.finding import JudgedInvariant
from pytest_glasshouse.invariants.trained_alike import LOSS_MARGIN, RoundsJudged

#: Losses after so many epochs of two honest legs of a tenth of a second: each has a checkpoint after its warm-up, and its end.
_LONGER = [(3, "1.7574"), (15, "0.0889")]


def _leg(points: Sequence[tuple[int, str]]) -> Any:
    *checkpoints, (steps, loss) = points
    return {
        "warmup_units": 0, "units": steps, "final_loss": loss, "prologue": ["0.94"],
        "checkpoints": [[at, told, f"{at:032x}"] for at, told in checkpoints],
    }  # fmt: skip


def _compare(protected: Sequence[tuple[int, str]], raw: Sequence[tuple[int, str]]) -> None:
    RoundsJudged()._losses("protected", _leg(protected), _leg(raw), LOSS_MARGIN["mlp"])


@pytest.mark.parametrize("shorter", [(4, "1.2"), (7, "0.55"), (9, "0.3415"), (14, "0.1019"), (15, "0.0889")])
def test_honest_legs_of_few_checkpoints_are_alike(shorter: tuple[int, str]) -> None:
    _compare([(2, "2.5731"), shorter], _LONGER)
    _compare(_LONGER, [(2, "2.5731"), shorter])


@pytest.mark.parametrize("shorter", [(90, "2.5731"), (90, "0.06"), (150, "0.13"), (150, "0.06")])
def test_a_loss_beside_those_at_the_checkpoints_around_is_no_like_training(shorter: tuple[int, str]) -> None:
    """Of a few steps more is allowed."""
    longer = [(30, "1.7574"), (150, "0.0889")]
    for legs in (([(20, "2.5731"), shorter], longer), (longer, [(20, "2.5731"), shorter])):
        with pytest.raises(JudgedInvariant, match="far from each other"):
            _compare(*legs)


def test_a_leg_whose_loss_stays_is_seen_by_the_longer_leg_that_trained() -> None:
    with pytest.raises(JudgedInvariant, match="far from each other"):
        _compare([(3, "1.7574"), (30, "1.7574")], [(3, "1.7574"), (15, "0.0889")])
