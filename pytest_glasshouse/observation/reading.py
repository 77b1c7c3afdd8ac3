"""What a report derives from a row's observation: journals, treatment, and how many lifecycles were begun and held.

Reads the observation as it stands and never believes a missing part: what is not there is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import parse_strict
from pytest_glasshouse.wire.journal import head_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


#: What a protected leg does that a raw leg does not, by the journal step that shows it.
_TREATMENT_STEPS = {
    "anti_debug_ready": "anti-debug",
    "measured": "attestation",
    "package_verified": "sealed source",
    "zeroized": "zeroize",
}


def invariant_key(name: str) -> str:
    """An invariant's name in one spelling: people write it with spaces, and its function with underscores."""
    return name.strip().replace(" ", "_")


def observed_rounds(observation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rounds of an observation; none when it has none."""
    rounds = observation.get("rounds")
    return [each for each in rounds if isinstance(each, dict)] if isinstance(rounds, list) else []


def protected_of(observed: Mapping[str, Any]) -> dict[str, Any]:
    """The protected leg's part of a round; empty when it was never begun."""
    part = observed.get("protected")
    return part if isinstance(part, dict) else {}


def journals(observation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Where each round's journal stands: its lines are in the observation, here are their number and the head."""
    found = []
    for observed in observed_rounds(observation):
        lines = journal_lines(observed)
        found.append(
            {"round": observed.get("round"), "lines": len(lines), "headSha256": head_of(lines, "") if lines else None},
        )
    return found


def journal_lines(observed: Mapping[str, Any]) -> list[str]:
    """The protected leg's journal of one round, as it was written."""
    lines = protected_of(observed).get("journal")
    return [line for line in lines if isinstance(line, str)] if isinstance(lines, list) else []


def treatment(observation: Mapping[str, Any]) -> list[str]:
    """The differences between the legs that the journals show, named once."""
    steps = {step for observed in observed_rounds(observation) for step in _steps(journal_lines(observed))}
    shown = [name for step, name in _TREATMENT_STEPS.items() if step in steps]
    return sorted([*shown, "journal"]) if steps else []


def stand_in(observation: Mapping[str, Any]) -> bool:
    """Whether a stand-in was trained for the model the row names. Not saying so is saying no: only a model row has one."""
    material = observation.get("material")
    return isinstance(material, dict) and material.get("standIn") is True


def cache_state(observation: Mapping[str, Any]) -> dict[str, Any]:
    """What was done to the page cache before each leg, where every leg says the same; nothing where they do not say."""
    told = [
        leg.get("cache")
        for observed in observed_rounds(observation)
        for name in ("protected", "raw", "raw2")
        if isinstance(leg := observed.get(name), dict)
    ]
    alike = bool(told) and isinstance(told[0], dict) and all(each == told[0] for each in told)
    return {"cacheState": told[0]} if alike else {}


def strict_memory(observation: Mapping[str, Any]) -> dict[str, bool]:
    """Whether the legs ran under the strict memory profile; nothing in an observation from before there was one."""
    plan = observation.get("plan")
    return {"strictMemory": plan["strictMemory"]} if isinstance(plan, dict) and "strictMemory" in plan else {}


def _steps(lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        try:
            entry: Any = parse_strict(line, floats=True)
        except IntegrityError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("type"), str):
            yield entry["type"]
