"""When a leg is asked to repeat the first steps of its prologue, and how many: drawn by the agent, told when it is to be done.

A leg whose arithmetic, data or weights are others in between cannot know until then that it has to put back what it changed.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Steps of one repetition: the first loss alone would tell of no step.
_LEAST_STEPS, _MOST_STEPS = 2, 4
#: One repetition for each leg of a round, and one more for so many turns.
_TURNS_EACH = 8


def drawn_steps() -> int:
    """How many steps to repeat."""
    return random.SystemRandom().randint(_LEAST_STEPS, _MOST_STEPS)


def drawn_turns(turns: Sequence[str]) -> set[int]:
    """Numbers of the turns before which their legs repeat something: of each leg as many of its own as of any other."""
    drawn = random.SystemRandom()
    own: dict[str, list[int]] = {}
    for number, role in enumerate(turns, 1):
        own.setdefault(role, []).append(number)
    each = min((1 + len(numbers) // _TURNS_EACH for numbers in own.values()), default=0)
    return {number for numbers in own.values() for number in drawn.sample(numbers, each)}
