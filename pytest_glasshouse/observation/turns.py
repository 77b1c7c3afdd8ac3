"""The turns of an interleaved round, from what each leg reported and what the agent signed about the borders of turns.

Reads the observation of one round and verifies nothing: signatures and the order of turns are judged by the invariants.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.claims import BordersClaims
from pytest_glasshouse.wire.tokens import peek
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_glasshouse.observation.document import RoundNotes
    from pytest_glasshouse.observation.trained import Trained
    from pytest_glasshouse.overhead.segments import Pair
    from pytest_glasshouse.rows.leg_order import Role

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
    role: Role
    before: Border
    after: Border

    def cpu_ns(self, role: str) -> int:
        """Processor time `role` used while this turn lasted."""
        return self.after.cpu_ns[role] - self.before.cpu_ns[role]

    @property
    def elapsed_ns(self) -> int:
        return self.after.t_ns - self.before.t_ns


def read_borders(token: str) -> BordersClaims:
    """The claims of a token about the borders of turns, unverified. Raises `IntegrityError` or `ProtocolError`."""
    return check_typed(peek(token), BordersClaims, "borders")


def turns_of(claims: BordersClaims) -> tuple[Turn, ...]:
    """The turns that were played. Raises `ValueError` for a turn of a leg that took no part and for borders of another shape."""
    roles = claims["roles"]
    if not set(claims["turns"]) <= set(roles):
        raise ValueError("a turn of a leg that took no part")
    played = zip(claims["turns"], claims["borders"], strict=False)
    return tuple(
        Turn(number=number, role=role, before=_border(before, roles), after=_border(after, roles))
        for number, (role, (before, after)) in enumerate(played, 1)
    )


def repeats_of(claims: BordersClaims) -> tuple[tuple[int, Role, int], ...]:
    """Repetitions of the prologue: the turn that came next, whose it was, and the processor time of that leg meanwhile.

    Raises `ValueError` as `turns_of` does, and for a turn that is none.
    """
    found = []
    for each in claims.get("repeats", []):
        if not 1 <= each["turn"] <= len(claims["turns"]) or len(each["borders"]) != 2:  # noqa: PLR2004
            raise ValueError("a repetition is before a turn, between two borders")
        role = claims["turns"][each["turn"] - 1]
        before, after = (_border(read, claims["roles"]) for read in each["borders"])
        found.append((each["turn"], role, after.cpu_ns[role] - before.cpu_ns[role]))
    return tuple(found)


def segments_of(body: Trained) -> dict[int, dict[str, int]]:
    """A leg's segments by turn, of its last journal line or its callback. Raises `ValueError` for one of another length."""
    segments = [dict(zip(_SEGMENT, segment, strict=True)) for segment in body.get("segments", [])]
    return {segment["turn"]: segment for segment in segments}


def pairs_of(notes: RoundNotes, bodies: Mapping[Role, Trained]) -> tuple[Pair, ...]:
    """The pairs (or triples) of one round.

    `bodies` has what each leg reported at its end. A segment's `cpu_ns` is the leg's own count over the timed part;
    `turn_cpu_ns` is the agent's over the whole turn with its wash-out, `others_cpu_ns` what the other legs used meanwhile.
    Pairs that were not finished are left out; empty where the round was not interleaved or nothing can be read.
    """
    if "borders" not in notes:
        return ()
    try:
        claims = read_borders(notes["borders"])
        turns = turns_of(claims)
        segments = {role: segments_of(body) for role, body in bodies.items()}
    except (IntegrityError, ProtocolError, ValueError):
        return ()
    size = len(claims["roles"])
    if not size:
        return ()
    groups = [turns[at : at + size] for at in range(0, len(turns) - size + 1, size)]
    if any(turn.number not in segments.get(turn.role, {}) for group in groups for turn in group):
        return ()
    return tuple(_pair(number, group, segments) for number, group in enumerate(groups, 1))


def _pair(number: int, group: Sequence[Turn], segments: Mapping[Role, Mapping[int, Mapping[str, int]]]) -> Pair:
    found: Pair = {"number": number, "first": group[0].role}
    for position, turn in enumerate(group, 1):
        segment = segments[turn.role][turn.number]
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
