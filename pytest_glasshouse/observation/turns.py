"""The turns of an interleaved round, put together from what each leg said and from what the agent signed about the borders.

Knows the observation's notes of one round. Nothing is believed here: whether the signatures are good and the turns were
as drawn is for the findings to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SEGMENT = ("turn", "units", "elapsed_ns", "cpu_ns", "wash_units", "wash_ns", "wash_cpu_ns")


@dataclass(frozen=True, kw_only=True)
class Border:
    """One reading: the guest's monotonic clock, and per leg its processor time so far and its number of processes."""

    t_ns: int
    cpu_ns: Mapping[str, int]
    processes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn as the agent saw it."""

    number: int
    role: str
    before: Border
    after: Border

    def cpu_ns(self, role: str) -> int:
        """Processor time `role` used while this turn lasted."""
        return self.after.cpu_ns[role] - self.before.cpu_ns[role]

    @property
    def elapsed_ns(self) -> int:
        return self.after.t_ns - self.before.t_ns


def turns_of(claims: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns that were played, of an agent's signed claims.

    Raises `KeyError`, `TypeError` or `ValueError` for another shape.
    """
    roles: list[str] = claims["roles"]
    played = zip(claims["turns"], claims["borders"], strict=False)
    return tuple(
        Turn(number=number, role=role, before=_border(before, roles), after=_border(after, roles))
        for number, (role, (before, after)) in enumerate(played, 1)
    )


def segments_of(body: Mapping[str, Any]) -> dict[int, dict[str, int]]:
    """A leg's segments by turn, of its last journal line or its callback."""
    return {told[0]: dict(zip(_SEGMENT, told, strict=True)) for told in body["segments"]}


def pairs_of(notes: Mapping[str, Any], bodies: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The pairs (or triples) of one round: `{number, first, <role>: {units, elapsed_ns, cpu_ns, ...}, ...}`.

    `bodies` has what each leg said at its end. A segment's `cpu_ns` is the leg's own count over the timed stretch;
    `turn_cpu_ns` is the agent's over the whole turn with its wash-out, `others_cpu_ns` what the other legs used meanwhile.
    Pairs that were not finished are left out; empty where the round was not interleaved or nothing can be read.
    """
    if notes.get("borders") is None:
        return ()
    try:
        claims = cast("dict[str, Any]", peek(notes["borders"]))
        turns = turns_of(claims)
        told = {role: segments_of(body) for role, body in bodies.items()}
    except (IntegrityError, KeyError, TypeError, ValueError, IndexError):
        return ()
    size = len(claims["roles"])
    groups = [turns[at : at + size] for at in range(0, len(turns) - size + 1, size)]
    if any(turn.number not in told.get(turn.role, {}) for group in groups for turn in group):
        return ()
    return tuple(_pair(number, group, told) for number, group in enumerate(groups, 1))


def _pair(number: int, group: Sequence[Turn], told: Mapping[str, Mapping[int, Mapping[str, int]]]) -> dict[str, Any]:
    found: dict[str, Any] = {"number": number, "first": group[0].role}
    for position, turn in enumerate(group, 1):
        segment = told[turn.role][turn.number]
        found[turn.role] = {
            "units": segment["units"],
            "elapsed_ns": segment["elapsed_ns"],
            "cpu_ns": segment["cpu_ns"],
            "position": position,
            "wash_units": segment["wash_units"],
            "wash_ns": segment["wash_ns"],
            "turn_ns": turn.elapsed_ns,
            "turn_cpu_ns": turn.cpu_ns(turn.role),
            "others_cpu_ns": sum(turn.cpu_ns(role) for role in turn.before.cpu_ns if role != turn.role),
        }
    return found


def _border(read: Sequence[int], roles: Sequence[str]) -> Border:
    t_ns, *counts = read
    if len(counts) != 2 * len(roles):
        raise ValueError("a border has two numbers for every leg")
    return Border(
        t_ns=t_ns,
        cpu_ns=dict(zip(roles, counts[::2], strict=True)),
        processes=dict(zip(roles, counts[1::2], strict=True)),
    )
