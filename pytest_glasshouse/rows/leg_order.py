"""In which order the legs of each round run. The named order is the first round's; later rounds balance it at random."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

LegName = Literal["protected", "raw"]

_FIRST: dict[str, tuple[LegName, LegName]] = {"raw-first": ("raw", "protected"), "protected-first": ("protected", "raw")}


#: Whose turns an interleaved round has: the protected leg's and one or two raw legs'.
Role = Literal["protected", "raw", "raw2"]


def leg_orders(order: str, *, rounds: int, seed: int, fixed: bool) -> tuple[tuple[LegName, LegName], ...]:
    """One order per round. Balanced means: the two orders differ in number by at most one.

    Of an interleaved row it is the order in which the legs start; which comes first in the first round is drawn too.
    Raises `ConfigurationError` for an order that is none.
    """
    draw = random.Random(seed)  # noqa: S311  (a design, not a secret: the seed is recorded)
    if order == "interleaved":
        named = draw.choice(list(_FIRST.values()))
    elif order in _FIRST:
        named = _FIRST[order]
    else:
        raise ConfigurationError(f"order {order!r}: expected {' or '.join(_FIRST)} or interleaved")
    if fixed:
        return (named,) * rounds
    other: tuple[LegName, LegName] = (named[1], named[0])
    later = [other] * (rounds // 2) + [named] * ((rounds - 1) // 2)
    draw.shuffle(later)
    return (named, *later)


def extension_seed(seed: int) -> int:
    """The seed of the orders of rounds a row is extended by: a design of their own, balanced like the first."""
    return seed + 1


def starting_orders(legs: Sequence[Role], *, rounds: int, seed: int, fixed: bool) -> tuple[tuple[Role, ...], ...]:
    """In which order the legs of each interleaved round start: balanced between two, drawn among three."""
    pairs = leg_orders("interleaved", rounds=rounds, seed=seed, fixed=fixed)
    if set(legs) == {"protected", "raw"}:
        return pairs
    if len(legs) == len(pairs[0]):
        # Raw against raw: the second stands where the protected leg would.
        return tuple(tuple("raw2" if leg == "protected" else leg for leg in pair) for pair in pairs)
    draw = random.Random(f"{seed} starts")  # noqa: S311
    return tuple(_with_third(pair, draw.randrange(3)) for pair in pairs)


def turn_orders(legs: Sequence[Role], *, number: int, pairs: int, seed: int) -> tuple[tuple[Role, ...], ...]:
    """For round `number`, the order of the legs in each pair (or triple): each drawn by itself."""
    draw = random.Random(f"{seed} round {number}")  # noqa: S311
    return tuple(tuple(draw.sample(sorted(legs), len(legs))) for _ in range(pairs))


def _with_third(pair: tuple[LegName, LegName], place: int) -> tuple[Role, ...]:
    three: list[Role] = [*pair]
    three.insert(place, "raw2")
    return tuple(three)
