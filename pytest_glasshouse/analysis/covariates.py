"""What the machine did while each leg was timed, and whether that excludes a row.

A covariate excludes a row only if it differs between the raw leg's own halves too: what differs only with protection is an
effect of protection. `check` computes all of it again from the observation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.sampling import is_current
from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.reading import observed_rounds
from pytest_glasshouse.observation.turns import Turn, read_borders, turns_of
from pytest_glasshouse.overhead.null import swaps_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import CovariateFigures, CovariateMeans, CovariatesRecord
    from pytest_glasshouse.observation.document import CovariatesSeen, Observation, RoundNotes

#: The mean SM clock of two parts may differ by this share.
CLOCK_SHARE = 0.01
#: Hardware throttling (slowdown, heat, power brake) in more than this share of a leg's samples.
THROTTLED_SHARE = 0.05
_HARDWARE = 0x8 | 0x40 | 0x80

Sample = dict[str, int | None]


def covariates(observation: Observation) -> CovariatesRecord:
    """`{"covariates": [...]}`: by round, the number of samples, why columns are null, and the means in each leg's turns.

    Empty where nothing was sampled.
    """
    sampled = [_round(observed, observed["covariates"]) for observed in observed_rounds(observation) if "covariates" in observed]
    return {"covariates": sampled} if sampled else {}


def disturbances(observation: Observation) -> list[str]:
    """Why the covariates exclude an interleaved row; empty where they do not, or where nothing was sampled."""
    legs, null = ("protected", "raw"), ("one half", "other half")
    parts: dict[str, list[Sample]] = {"protected": [], "raw": [], "one half": [], "other half": []}
    for observed in observed_rounds(observation):
        by_turn = _samples_by_turn(observed)
        raw = [samples for turn, samples in by_turn if turn.role == "raw"]
        for half, samples in zip(null, _halves(raw, observed["round"], neighbours=is_current(observation)), strict=True):
            parts[half] += samples
        parts["raw"] += [sample for samples in raw for sample in samples]
        parts["protected"] += [sample for turn, samples in by_turn if turn.role == "protected" for sample in samples]
    found = []
    if all(_clocks_differ(parts[one], parts[other]) for one, other in (legs, null)):
        found.append(f"the SM clock differed by more than {CLOCK_SHARE:.0%} between the legs, and between raw and raw too")
    if all(_throttled(parts[one]) or _throttled(parts[other]) for one, other in (legs, null)):
        found.append(f"the hardware throttled in more than {THROTTLED_SHARE:.0%} of the samples, in raw segments too")
    if all(_shared(parts[one]) or _shared(parts[other]) for one, other in (legs, null)):
        found.append("another process used the GPU, in raw segments too")
    return found


def _halves(turns: Sequence[list[Sample]], number: int, *, neighbours: bool) -> tuple[list[Sample], list[Sample]]:
    """The samples of the raw leg's turns in two halves: of two neighbours either, as a split-halves null draws them.

    Before rows had a plan of their sampling it was the first half and the second, which a slow drift tells apart.
    """
    halves: tuple[list[Sample], list[Sample]] = ([], [])
    for place, samples in enumerate(turns):
        swapped = swaps_neighbours(number, place - place % 2) if neighbours else 0
        halves[((place % 2) ^ swapped) if neighbours else int(place >= len(turns) // 2)].extend(samples)
    return halves


def _round(observed: RoundNotes, seen: CovariatesSeen) -> CovariateFigures:
    by_role: dict[str, list[Sample]] = {}
    for turn, samples in _samples_by_turn(observed):
        by_role.setdefault(turn.role, []).extend(samples)
    return {
        "round": observed["round"],
        "samples": len(seen["samples"]),
        "reasons": dict(seen["reasons"]),
        "legs": {role: _means(samples) for role, samples in by_role.items()},
    }


def _means(samples: Sequence[Sample]) -> CovariateMeans:
    return {
        "samples": len(samples),
        "smClockMhz": _mean(samples, "sm_mhz"),
        "memoryClockMhz": _mean(samples, "memory_mhz"),
        "temperatureC": _mean(samples, "temperature_c"),
        "powerMilliwatt": _mean(samples, "power_mw"),
        "otherProcesses": _mean(samples, "other_processes"),
        "loadMilli": _mean(samples, "load_milli"),
        "busyMilli": _mean(samples, "busy_milli"),
        "stealMilli": _mean(samples, "steal_milli"),
    }


def _samples_by_turn(observed: RoundNotes) -> list[tuple[Turn, list[Sample]]]:
    """The samples of each turn; nothing where turns or samples cannot be read."""
    if "borders" not in observed or "covariates" not in observed:
        return []
    seen = observed["covariates"]
    try:
        turns = turns_of(read_borders(observed["borders"]))
        samples = [dict(zip(seen["fields"], sample, strict=True)) for sample in seen["samples"]]
    except (IntegrityError, ProtocolError, ValueError):
        return []
    timed = [(t_ns, sample) for sample in samples if (t_ns := sample.get("t_ns")) is not None]
    return [(turn, [sample for t_ns, sample in timed if turn.before.t_ns <= t_ns < turn.after.t_ns]) for turn in turns]


def _values(samples: Sequence[Sample], field: str) -> list[int]:
    return [value for sample in samples if (value := sample.get(field)) is not None]


def _mean(samples: Sequence[Sample], field: str) -> float | None:
    values = _values(samples, field)
    return math.fsum(values) / len(values) if values else None


def _clocks_differ(one: Sequence[Sample], other: Sequence[Sample]) -> bool:
    first, second = _mean(one, "sm_mhz"), _mean(other, "sm_mhz")
    return first is not None and second is not None and abs(first - second) > CLOCK_SHARE * max(first, second)


def _throttled(samples: Sequence[Sample]) -> bool:
    reasons = _values(samples, "throttle_reasons")
    return bool(reasons) and sum(bool(value & _HARDWARE) for value in reasons) > THROTTLED_SHARE * len(reasons)


def _shared(samples: Sequence[Sample]) -> bool:
    return any(_values(samples, "other_processes"))
