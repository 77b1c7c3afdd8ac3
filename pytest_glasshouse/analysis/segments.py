"""What a report tells of an interleaved row beside its figures: the design that was signed for, and every timed segment.

Reads rounds and the observation's plan; computes nothing but seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_glasshouse.observation.results import RoundResult

_ROLES = ("protected", "raw", "raw2")


def design(observation: Mapping[str, Any]) -> dict[str, Any]:
    """The interleaving of a row's plan, as `{"interleaving": {...}}`; nothing where the legs ran one after the other."""
    plan = observation.get("plan")
    told = plan.get("interleaving") if isinstance(plan, dict) else None
    return {"interleaving": told} if isinstance(told, dict) else {}


def segments(rounds: Sequence[RoundResult]) -> list[dict[str, Any]]:
    """Every timed segment in the order they ran: what it did, what was discarded before it, and who used the processor.

    `cpuSec` is the leg's own count over the timed stretch; `turnCpuSec` is the agent's over the whole turn and
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
        for role, part in sorted(
            ((role, pair[role]) for role in _ROLES if role in pair), key=lambda named: int(named[1]["position"])
        )
    ]


def steady(rounds: Sequence[RoundResult]) -> list[dict[str, Any]]:
    """By round and leg, whether the warm-up ended because the rate had settled."""
    return [
        {"round": each.number, **{role: leg.steady for role in _ROLES if (leg := getattr(each, role)) is not None}}
        for each in rounds
        if each.pairs
    ]
