"""What a report has of an interleaved row beside its figures: the design that was signed for, and every timed segment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.observation.reading import ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import DesignRecord, SegmentFigures, Steady
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult
    from pytest_glasshouse.overhead.segments import Pair, TurnFigures
    from pytest_glasshouse.rows.leg_order import Role


def design(observation: Observation) -> DesignRecord:
    """The interleaving of a row's plan, as `{"interleaving": {...}}`; nothing where the legs ran one after the other."""
    plan = observation.get("plan")
    return {"interleaving": plan["interleaving"]} if plan is not None and "interleaving" in plan else {}


def segments(rounds: Sequence[RoundResult]) -> list[SegmentFigures]:
    """Every timed segment in the order they ran: what it did, what was discarded before it, and who used the processor.

    `cpuSec` is the leg's own count over the timed part; `turnCpuSec` is the agent's over the whole turn and
    `othersCpuSec` what the other legs' processes used meanwhile.
    """
    return [
        {
            "round": each.number,
            "pair": pair["number"],
            "leg": role,
            "position": part["position"],
            "units": part["units"],
            "elapsedSec": part["elapsed_ns"] / 1e9,
            "cpuSec": part["cpu_ns"] / 1e9,
            "washUnits": part["wash_units"],
            "washSec": part["wash_ns"] / 1e9,
            "turnSec": part["turn_ns"] / 1e9,
            "turnCpuSec": part["turn_cpu_ns"] / 1e9,
            "othersCpuSec": part["others_cpu_ns"] / 1e9,
        }
        for each in rounds
        for pair in each.pairs
        for role, part in _in_order(pair)
    ]


def _in_order(pair: Pair) -> list[tuple[Role, TurnFigures]]:
    """The turns of a pair in the order they ran."""
    turns = [(role, pair[role]) for role in ROLES if role in pair]
    return sorted(turns, key=lambda turn: turn[1]["position"])


def steady(rounds: Sequence[RoundResult]) -> list[Steady]:
    """By round and leg, whether the warm-up ended because the rate had settled."""
    return [_steady(each) for each in rounds if each.pairs]


def _steady(each: RoundResult) -> Steady:
    found: Steady = {"round": each.number}
    for role in ROLES:
        if (leg := each.leg(role)) is not None:
            found[role] = leg.steady
    return found
