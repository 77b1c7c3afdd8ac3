"""Invariants of interleaved rounds: the legs took their turns as drawn, and a leg that waited was idle."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import verified
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, broken, judge_rounds, unseen
from pytest_glasshouse.observation.turns import Turn, repeats_of, segments_of, turns_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.observation.claims import BordersClaims
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.rows.leg_order import Role

#: Of the raw segments' time, how much processor time protected-side processes may use outside their own turns.
IDLE_SHARE = 0.001
#: Processor time that handing over may take the protected leg more than the raw one, in each turn. The agent's own readings of a
#: leg, which take longer than that on a busy machine, are in neither's count.
_HANDOVER_NS = 1_000_000
#: How often the raw leg's processor time a repetition of the prologue may take, and how much beside it.
_REPEAT_TIMES, _REPEAT_NS = 2, 5_000_000
#: How much of its turns a leg may leave untimed, as a share and for each: messages between agent and leg. What the kernel let
#: them wait for a processor meanwhile is allowed for beside it.
_UNTIMED_SHARE = 0.1
_MESSAGES_NS = 50_000_000


def paused_leg_idle(observation: Observation) -> Finding:
    """The protected side works in its own turns only, so that none of its cost is in the raw leg's time."""
    return judge_rounds("paused leg idle", observation, _idle)


def interleaved(observation: Observation) -> bool:
    """Whether any round of a row was planned with legs that take turns."""
    return any("turns" in notes for notes in observation.get("rounds", []))


def is_null(observation: Observation) -> bool:
    """Whether a row was planned as raw against raw."""
    return "plan" in observation and observation["plan"].get("null", False)


def _idle(reader: EvidenceReader) -> str:
    if "turns" not in reader.notes:
        return "no leg was paused: they ran one after the other"
    turns, claims = _signed(reader)
    if "protected" not in claims["roles"]:
        raise ValueError("an account of turns without the protected leg, in a row that has one")
    segments = {role: segments_of(body) for role, body in verified.ends(reader).items()}
    raw_ns = sum(part["elapsed_ns"] for role, parts in segments.items() if role != "protected" for part in parts.values())
    if raw_ns <= 0:
        raise unseen("the raw legs have no timed segment", expected="timed segments of the raw leg", seen="none")
    outside_ns = _outside_ns(turns) - _repeated_ns(claims, ranks=reader.ranks)
    if reader.ranks > 1:
        # gloo's thread wakes a hundred times a second in every leg whose ranks are connected, paused or not: 0.3 % of a core for
        # each rank. What the raw leg uses while it is paused is no cost of protection.
        outside_ns = max(0, outside_ns - _outside_ns(turns, "raw") + _repeated_ns(claims, "raw", ranks=reader.ranks))
    counted = {role: sum(map(_counted_ns, parts.values())) for role, parts in segments.items()}
    for rank in range(1, reader.ranks):
        # The agent's counters are of all ranks of a leg together.
        for role, body in verified.ends(reader.of_rank(rank)).items():
            counted[role] += sum(map(_counted_ns, segments_of(body).values()))
    untimed_ns = _untimed_ns("protected", turns, counted) - _untimed_ns("raw", turns, counted)
    handovers_ns = _HANDOVER_NS * reader.ranks * sum(turn.role == "protected" for turn in turns)
    share = outside_ns / raw_ns
    seen_share = (
        f"{outside_ns / 1e6:.3f} ms of processor time outside its own turns, {share:.4%} of {raw_ns / 1e9:.3f} s of raw segments"
    )
    if share > IDLE_SHARE:
        raise broken(
            f"the protected leg used {outside_ns / 1e9:.3f} s of processor time outside its own turns",
            expected=f"at most {IDLE_SHARE:.1%} of the raw segments' {raw_ns / 1e9:.3f} s",
            seen=f"{share:.2%}",
            todo="do not use this row: a cost of protection was paid in the raw leg's time",
        )
    if untimed_ns > handovers_ns and untimed_ns > IDLE_SHARE * raw_ns:
        raise broken(
            f"the protected leg used {untimed_ns / 1e9:.3f} s of processor time more than the raw leg while no clock of its ran",
            expected=f"at most {handovers_ns / 1e9:.3f} s for handing over",
            seen=f"{untimed_ns / 1e9:.3f} s",
            todo="do not use this row: a cost of protection was paid between segments",
        )
    return seen_share


def _outside_ns(turns: tuple[Turn, ...], role: Role = "protected") -> int:
    """Processor time of the protected side, or another, from the first border to the last, less what its own turns used."""
    whole = turns[-1].after.cpu_ns[role] - turns[0].before.cpu_ns[role]
    return whole - sum(turn.cpu_ns(role) for turn in turns if turn.role == role)


def _repeated_ns(claims: BordersClaims, role: Role = "protected", *, ranks: int = 1) -> int:
    """Processor time of a leg between the turns that was asked for: no more, for each repetition, than the raw leg's twice."""
    used: dict[Role, list[tuple[int, int]]] = {each: [] for each in claims["roles"]}
    for turn, whose, used_ns in repeats_of(claims):
        used[whose].append((turn, used_ns))
    raw = [used_ns for _, used_ns in used.get("raw", [])]
    most_ns = _REPEAT_TIMES * sum(raw) // max(1, len(raw)) + _REPEAT_NS * ranks
    return sum(min(used_ns, most_ns) for turn, used_ns in used[role] if turn > 1)


def _counted_ns(segment: Mapping[str, int]) -> int:
    return segment["cpu_ns"] + segment["wash_cpu_ns"]


def _untimed_ns(role: Role, turns: Sequence[Turn], counted: Mapping[Role, int]) -> int:
    """What a leg used in its own turns, less what it counted in wash-outs and segments."""
    return sum(turn.cpu_ns(role) for turn in turns if turn.role == role) - counted.get(role, 0)


def time_waited(reader: EvidenceReader, role: Role) -> int:
    """How long the kernel let a leg and its agent wait for a processor while the leg took its turns, as the agent signed it."""
    return sum(row[-1] for row in verified.stretches_claims(reader, role)["stretches"])


def in_turns(reader: EvidenceReader, *, waited: Callable[[EvidenceReader, Role], int] = time_waited) -> str:
    """Turns as the seed drew them, one at a time, each with the one segment that its leg reports.

    Up to revision 3 nothing was known of what a leg `waited`.
    """
    turns, claims = _signed(reader)
    drawn = reader.of("turns")
    if claims["turns"] != drawn or len(turns) != len(drawn):
        raise unseen(
            f"{len(turns)} of {len(drawn)} turns were played", expected=f"{len(drawn)} turns", seen=f"{len(turns)} signed for"
        )
    for one, after in pairwise(turns):
        if after.before.t_ns < one.after.t_ns:
            raise broken(
                f"turns {one.number} and {after.number} overlapped",
                expected="one leg at a time",
                seen=f"{(one.after.t_ns - after.before.t_ns) / 1e9:.3f} s of overlap",
                todo="do not use this row: the legs competed for the device",
            )
    for role, body in verified.ends(reader).items():
        own = [turn for turn in turns if turn.role == role]
        _as_long_as_turns(role, own, segments_of(body), waited_ns=waited(reader, role))
    return f"{len(turns)} turns as drawn, one at a time"


def _as_long_as_turns(role: Role, turns: Sequence[Turn], segments: Mapping[int, Mapping[str, int]], *, waited_ns: int) -> None:
    if list(segments) != [turn.number for turn in turns]:
        raise broken(
            f"the {role} leg reports other turns than it was given",
            expected=f"{len(turns)} turns",
            seen=f"{len(segments)} segments",
            todo="do not use this row",
        )
    spare_ns = [turn.elapsed_ns - segments[turn.number]["elapsed_ns"] - segments[turn.number]["wash_ns"] for turn in turns]
    turn_ns = sum(turn.elapsed_ns for turn in turns)
    allowed_ns = max(_UNTIMED_SHARE * turn_ns, _MESSAGES_NS * len(turns)) + waited_ns
    if min(spare_ns) < 0 or sum(spare_ns) > allowed_ns:
        raise broken(
            f"the {role} leg's segments are not as long as its turns",
            expected=f"wash-outs and segments within each turn, and at most {allowed_ns / 1e9:.3f} s of the turns beside them",
            seen=f"{sum(spare_ns) / 1e9:.3f} s of {turn_ns / 1e9:.3f} s untimed, at least {min(spare_ns) / 1e9:.3f} s in each",
            todo="do not use this row: a leg's clock is not the guest's, or part of its turns was not timed",
        )


def _signed(reader: EvidenceReader) -> tuple[tuple[Turn, ...], BordersClaims]:
    """What the agent signed about the borders of this round's turns."""
    claims = verified.borders_claims(reader)
    if claims["nonce"] != reader.of("nonce"):
        raise broken(
            "the account of the turns is of another round",
            expected=f"nonce {reader.of('nonce')}",
            seen=f"nonce {claims['nonce']}",
            todo="do not use this row",
        )
    turns = turns_of(claims)
    if not turns:
        raise unseen("no turn was played", expected="turns", seen="none")
    return turns, claims
