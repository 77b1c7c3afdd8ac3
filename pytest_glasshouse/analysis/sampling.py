"""How a row's rounds came about, as its intervals need it: from its signed plan, its rounds and its extension.

A row whose plan has no `sampling` was written before there was any: its rounds are one block, whoever started first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import Sampling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow
    from pytest_glasshouse.observation.document import Observation


def starts_of(orders: Sequence[Sequence[str]]) -> tuple[int, ...]:
    """By round, 1 where the protected leg started first, else -1."""
    return tuple(1 if order and order[0] == "protected" else -1 for order in orders)


def sampled(observation: Observation, orders: Sequence[Sequence[str]], *, first_rounds: int | None) -> Sampling:
    """The sampling of rounds with these orders of legs; `first_rounds` of a row that was extended, else None."""
    plan = observation.get("plan")
    if plan is None or "sampling" not in plan:
        return Sampling(first_rounds=first_rounds)
    return Sampling(
        first_rounds=first_rounds,
        starts=() if plan["fixedOrder"] else starts_of(orders),
        sequential="looks" in plan["sampling"],
    )


def is_current(observation: Observation) -> bool:
    """Whether a row is estimated and judged as now, and not as before its plan said how."""
    plan = observation.get("plan")
    return plan is not None and "sampling" in plan


def sampling_of(row: MeasuredRow) -> Sampling:
    """The sampling of a measured row of a report."""
    first = row["extension"]["firstRounds"] if "extension" in row else None
    return sampled(row["observation"], [each["order"] for each in row["roundFigures"]], first_rounds=first)
