"""What a report derives from a row's observation: its rounds, journals, treatment and the state of the page cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict, cast

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import parse_strict
from pytest_glasshouse.wire.evidence import MOST_RANKS
from pytest_glasshouse.wire.journal import head_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.observation.document import CacheState, Observation, ProtectedNotes, RoundNotes
    from pytest_glasshouse.rows.leg_order import Role

ROLES: tuple[Role, ...] = ("protected", "raw", "raw2")

#: What a protected leg does that a raw leg does not, by the journal step that shows it.
_TREATMENT_STEPS = {
    "anti_debug_ready": "anti-debug",
    "measured": "attestation",
    "package_verified": "sealed source",
    "zeroized": "zeroize",
}


class JournalRecord(TypedDict):
    """A round's journal: how many lines the observation has of it, and its head."""

    round: int
    lines: int
    headSha256: str | None


class CacheRecord(TypedDict, total=False):
    """The state of the page cache, where all legs report the same."""

    cacheState: CacheState


class StrictMemoryRecord(TypedDict, total=False):
    """Whether the legs ran under the strict memory profile, where the plan says so."""

    strictMemory: bool


def invariant_key(name: str) -> str:
    """An invariant's name in one spelling: people write it with spaces, and its function with underscores."""
    return name.strip().replace(" ", "_")


def is_sealed(observation: Observation) -> bool:
    """Whether a row was planned with its base model in the package: it is confidential, and has a protected leg only."""
    return "plan" in observation and observation["plan"].get("base") == "sealed"


#: What a rank of a leg has of the leg: what was planned and granted once for all ranks.
_OF_THE_LEG = ("trainingPlan", "cache", "ak", "manifest", "evidence", "challenge", "result")


def planned_gpus(observation: Observation) -> int:
    """How many GPUs, and so ranks, a row's legs were planned with."""
    return max(1, min(observation["plan"].get("gpus", 1), MOST_RANKS)) if "plan" in observation else 1


def planned_nodes(observation: Observation) -> int:
    """Over how many nodes these are spread, as many on each."""
    return max(1, min(observation["plan"].get("nodes", 1), planned_gpus(observation))) if "plan" in observation else 1


def notes_of_node(notes: RoundNotes, node: int) -> RoundNotes:
    """One node's part of a round, counted from 0; empty where it left none."""
    if node == 0:
        return notes
    parts = notes.get("nodes", [])
    if node <= len(parts):
        return parts[node - 1]
    return {
        "round": notes["round"],
        "nonce": notes["nonce"],
        "order": notes["order"],
        "guest": [],
        "protected": None,
        "raw": None,
    }


def notes_of_rank(notes: RoundNotes, rank: int) -> RoundNotes:
    """A round as another rank than the first left it: for each leg, that rank's notes in place of the first one's."""
    found: dict[str, Any] = {**notes}
    for role in ROLES:
        leg: Mapping[str, Any] | None = notes.get(role)
        if leg is not None:
            own = [each for each in leg.get("ranks", []) if each.get("rank") == rank]
            found[role] = {**{name: leg[name] for name in _OF_THE_LEG if name in leg}, **(own[0] if len(own) == 1 else {})}
    return cast("RoundNotes", found)


def parts_of_round(observed: RoundNotes) -> list[tuple[str, RoundNotes]]:
    """Each node's part of a round, the first node's first, and its path below the round."""
    return [("", observed), *((f".nodes[{place}]", part) for place, part in enumerate(observed.get("nodes", [])))]


def observed_rounds(observation: Observation) -> list[RoundNotes]:
    """The rounds of an observation; none when it has none."""
    return observation.get("rounds", [])


def protected_of(observed: RoundNotes) -> ProtectedNotes:
    """The protected leg's part of a round; empty when it was never begun."""
    return observed["protected"] or {}


def journals(observation: Observation) -> list[JournalRecord]:
    """For each round, how many lines its journal has, and the journal's head. The lines are in the observation."""
    found: list[JournalRecord] = []
    for observed in observed_rounds(observation):
        lines = journal_lines(observed)
        head = head_of(lines, "") if lines else None
        found.append({"round": observed["round"], "lines": len(lines), "headSha256": head})
    return found


def journal_lines(observed: RoundNotes) -> list[str]:
    """The protected leg's journal of one round, as it was written."""
    return protected_of(observed).get("journal", [])


def treatment(observation: Observation) -> list[str]:
    """The differences between the legs that the journals show, named once."""
    steps = {step for observed in observed_rounds(observation) for step in _steps(journal_lines(observed))}
    shown = [name for step, name in _TREATMENT_STEPS.items() if step in steps]
    return sorted([*shown, "journal"]) if steps else []


def stand_in(observation: Observation) -> bool:
    """Whether a stand-in was trained for the model the row names; only a model row can have one."""
    return "material" in observation and observation["material"]["standIn"]


def cache_state(observation: Observation) -> CacheRecord:
    """What was done to the page cache before each leg, where all legs report the same; else nothing."""
    legs = [leg for observed in observed_rounds(observation) for role in ROLES if (leg := observed.get(role)) is not None]
    states = [leg.get("cache") for leg in legs]
    first = states[0] if states else None
    return {"cacheState": first} if first is not None and all(each == first for each in states) else {}


def strict_memory(observation: Observation) -> StrictMemoryRecord:
    """Whether the legs ran under the strict memory profile; nothing in an observation from before there was one."""
    plan = observation.get("plan")
    return {"strictMemory": plan["strictMemory"]} if plan is not None and "strictMemory" in plan else {}


def _steps(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        try:
            entry: Any = parse_strict(line, floats=True)
        except IntegrityError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("type"), str):
            yield entry["type"]
