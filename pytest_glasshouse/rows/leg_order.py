"""The order of the legs in each round, and of their turns: as named in the first round, balanced at random in the later ones.

Everything is drawn from the run's seed and the row's id, so that no two rows of a run share an imbalance. Rounds are drawn two by
two, one of either order: a round's order does not depend on how many follow. Rows whose plan has no `sampling` were drawn by the
older functions, which only `check` calls.
"""

from __future__ import annotations

import hashlib
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


def row_seed(seed: int, row_id: str) -> str:
    """What a row's orders are drawn from."""
    return hashlib.sha256(f"glasshouse-orders/1\n{seed}\n{row_id}".encode()).hexdigest()


def orders_of_row(order: str, *, rounds: int, seed: str, fixed: bool) -> tuple[tuple[LegName, LegName], ...]:
    """One order per round, of two successive rounds one of either. `seed` is the row's.

    For an interleaved row it is the order in which the legs start, and the first round's is drawn too.
    Raises `ConfigurationError` for an unknown order, or for more than `MOST_ROUNDS`.
    """
    _refuse_too_many(rounds)
    if order == "interleaved":
        named = random.Random(f"{seed} first").choice(list(_FIRST.values()))  # noqa: S311  (a design, not a secret)
    elif order in _FIRST:
        named = _FIRST[order]
    else:
        raise ConfigurationError(f"order {order!r}: expected {' or '.join(_FIRST)} or interleaved")
    if fixed:
        return (named,) * rounds
    other: tuple[LegName, LegName] = (named[1], named[0])
    drawn = [named, other]
    for two in range(1, (rounds + 1) // 2):
        drawn += random.Random(f"{seed} rounds {two}").sample([named, other], 2)  # noqa: S311
    return tuple(drawn[:rounds])


def starts_of_row(legs: Sequence[Role], *, rounds: int, seed: str, fixed: bool) -> tuple[tuple[Role, ...], ...]:
    """The order in which the two legs of each interleaved round start. Raises `ConfigurationError` for other than two legs."""
    if len(legs) != len(_FIRST):
        raise ConfigurationError(f"expected two legs that take turns, saw {len(legs)}")
    # Raw against raw: the second raw leg takes the protected leg's place.
    second: Role = "protected" if "protected" in legs else "raw2"
    pairs = orders_of_row("interleaved", rounds=rounds, seed=seed, fixed=fixed)
    return tuple(tuple(second if leg == "protected" else leg for leg in pair) for pair in pairs)


def turns_of_round(legs: Sequence[Role], *, number: int, pairs: int, seed: str) -> tuple[tuple[Role, ...], ...]:
    """The order of the two legs in each pair of round `number`: either begins half of the pairs, of an odd number one more.

    Raises `ConfigurationError` for more pairs than a round can have.
    """
    _refuse_too_many_pairs(pairs)
    draw = random.Random(f"{seed} round {number}")  # noqa: S311
    one, other = sorted(legs)
    firsts = [one, other] * (pairs // 2) + ([draw.choice([one, other])] if pairs % 2 else [])
    draw.shuffle(firsts)
    return tuple((first, other if first == one else one) for first in firsts)


def _refuse_too_many(rounds: int) -> None:
    if rounds > MOST_ROUNDS:
        raise ConfigurationError(f"expected at most {MOST_ROUNDS} rounds, saw {rounds}")


def _refuse_too_many_pairs(pairs: int) -> None:
    if pairs > _MOST_PAIRS:
        raise ConfigurationError(f"expected at most {_MOST_PAIRS} pairs in a round, saw {pairs}")


def leg_orders(order: str, *, rounds: int, seed: int, fixed: bool) -> tuple[tuple[LegName, LegName], ...]:
    """One order per round. Balanced means that the counts of the two orders differ by at most one.

    For an interleaved row it is the order in which the legs start, and the first round's is drawn too.
    Raises `ConfigurationError` for an unknown order, or for more than `MOST_ROUNDS`.
    """
    _refuse_too_many(rounds)
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
    _refuse_too_many(rounds)
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
    _refuse_too_many_pairs(pairs)
    draw = random.Random(f"{seed} round {number}")  # noqa: S311
    return tuple(tuple(draw.sample(sorted(legs), len(legs))) for _ in range(pairs))


def _with_third(pair: tuple[LegName, LegName], place: int) -> tuple[Role, ...]:
    three: list[Role] = [*pair]
    three.insert(place, "raw2")
    return tuple(three)
