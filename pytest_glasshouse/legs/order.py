"""In which order the legs of each round run. The named order is the first round's; later rounds balance it at random."""

from __future__ import annotations

import random
from typing import Literal

from pytest_glasshouse.errors import ConfigurationError

Leg = Literal["protected", "raw"]

_FIRST: dict[str, tuple[Leg, Leg]] = {"raw-first": ("raw", "protected"), "protected-first": ("protected", "raw")}


def leg_orders(order: str, *, rounds: int, seed: int, fixed: bool) -> tuple[tuple[Leg, Leg], ...]:
    """One order per round. Balanced means: the two orders differ in number by at most one.

    Raises `ConfigurationError` for an order that is not one leg after the other.
    """
    if order not in _FIRST:
        raise ConfigurationError(f"order {order!r}: expected {' or '.join(_FIRST)}")
    named = _FIRST[order]
    if fixed:
        return (named,) * rounds
    other: tuple[Leg, Leg] = (named[1], named[0])
    later = [other] * (rounds // 2) + [named] * ((rounds - 1) // 2)
    random.Random(seed).shuffle(later)  # noqa: S311  (a design, not a secret: the seed is recorded)
    return (named, *later)
