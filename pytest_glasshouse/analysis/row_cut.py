"""A row's time cut into rounds and pairs by what its first round cost: once, and never by what that round measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.rows.interleaving import Cut, cut

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.round_fields import CutRecord
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult


def cut_of(observation: Observation, rounds: Sequence[RoundResult]) -> Cut | None:
    """How the first round cuts the row's time; None where the plan names no time or that round is not complete."""
    plan = observation.get("plan")
    row_s = None if plan is None or "sampling" not in plan else plan["sampling"].get("rowSec")
    if plan is None or row_s is None or not rounds:
        return None
    legs = [leg for role in plan["interleaving"]["legs"] if (leg := rounds[0].leg(role)) is not None]
    if len(legs) < len(plan["interleaving"]["legs"]) or not rounds[0].pairs:
        return None
    parts = [part for pair in rounds[0].pairs for part in (pair.get("protected"), pair.get("raw"), pair.get("raw2")) if part]
    turns_ns = sum(part["turn_ns"] for part in parts)
    cost_ns = sum(leg.setup_ns + leg.warmup_ns + (leg.zeroize_ns or 0) for leg in legs)
    if turns_ns <= 0 or cost_ns <= 0:
        return None
    return cut(
        row_s=float(row_s),
        round_cost_s=cost_ns / 1e9,
        pair_s=turns_ns / 1e9 / len(rounds[0].pairs),
    )


def cut_figures(observation: Observation, rounds: Sequence[RoundResult]) -> CutRecord:
    """`{"cut": {...}}`; nothing where no time was cut."""
    divided = cut_of(observation, rounds)
    if divided is None:
        return {}
    return {
        "cut": {
            "roundCostSec": divided.round_cost_s,
            "pairSec": divided.pair_s,
            "rounds": divided.rounds,
            "pairs": divided.pairs,
        }
    }
