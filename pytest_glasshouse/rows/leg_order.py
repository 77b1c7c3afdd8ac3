"""The order of the legs in each round: the named order in the first round, balanced at random in the later ones."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

LegName = Literal["protected", "raw"]

#: More than any row needs. A report that states more does not make its reader draw them.
MOST_ROUNDS = 10_000
_MOST_PAIRS = 100_000

_FIRST: dict[str, tuple[LegName, LegName]] = {"raw-first": ("raw", "protected"), "protected-first": ("protected", "raw")}

#: The legs of an interleaved round: the protected leg and one or two raw legs.
Role = Literal["protected", "raw", "raw2"]


def leg_orders(order: str, *, rounds: int, seed: int, fixed: bool) -> tuple[tuple[LegName, LegName], ...]:
    """One order per round. Balanced means that the counts of the two orders differ by at most one.

    For an interleaved row it is the order in which the legs start, and the first round's is drawn too.
    Raises `ConfigurationError` for an unknown order, or for more than `MOST_ROUNDS`.
    """
    if rounds > MOST_ROUNDS:
        raise ConfigurationError(f"expected at most {MOST_ROUNDS} rounds, saw {rounds}")
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


def sealed_orders(rounds: int) -> tuple[tuple[LegName], ...]:
    """One order per round of a row whose base is sealed: its one leg. Raises `ConfigurationError` for more than `MOST_ROUNDS`."""
    if rounds > MOST_ROUNDS:
        raise ConfigurationError(f"expected at most {MOST_ROUNDS} rounds, saw {rounds}")
    return (("protected",),) * rounds


def extension_seed(seed: int) -> int:
    """The seed of the orders of the rounds that a row is extended by, which are balanced among themselves."""
    return seed + 1


def starting_orders(legs: Sequence[Role], *, rounds: int, seed: int, fixed: bool) -> tuple[tuple[Role, ...], ...]:
    """The order in which the legs of each interleaved round start: balanced between two, drawn among three."""
    pairs = leg_orders("interleaved", rounds=rounds, seed=seed, fixed=fixed)
    if set(legs) == {"protected", "raw"}:
        return pairs
    if len(legs) == len(pairs[0]):
        # Raw against raw: the second raw leg takes the protected leg's place.
        return tuple(tuple("raw2" if leg == "protected" else leg for leg in pair) for pair in pairs)
    draw = random.Random(f"{seed} starts")  # noqa: S311
    return tuple(_with_third(pair, draw.randrange(3)) for pair in pairs)


def turn_orders(legs: Sequence[Role], *, number: int, pairs: int, seed: int) -> tuple[tuple[Role, ...], ...]:
    """The order of the legs in each pair (or triple) of round `number`, each drawn independently.

    Raises `ConfigurationError` for more pairs than a round can have.
    """
    if pairs > _MOST_PAIRS:
        raise ConfigurationError(f"expected at most {_MOST_PAIRS} pairs in a round, saw {pairs}")
    draw = random.Random(f"{seed} round {number}")  # noqa: S311
    return tuple(tuple(draw.sample(sorted(legs), len(legs))) for _ in range(pairs))


def _with_third(pair: tuple[LegName, LegName], place: int) -> tuple[Role, ...]:
    three: list[Role] = [*pair]
    three.insert(place, "raw2")
    return tuple(three)
