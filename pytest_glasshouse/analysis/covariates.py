"""What the machine did while each leg was timed, and whether that spoils a row.

A covariate excludes a row only if it differs between the raw leg's own halves too: what differs only with protection is
what protection does. Pure; `check` computes all of it again from the observation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.observation.reading import observed_rounds
from pytest_glasshouse.observation.turns import Turn, turns_of
from pytest_glasshouse.wire.tokens import peek

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The mean SM clock of two stretches may differ by this share.
CLOCK_SHARE = 0.01
#: Hardware throttling (slowdown, heat, power brake) in more than this share of a leg's samples.
THROTTLED_SHARE = 0.05
_HARDWARE = 0x8 | 0x40 | 0x80

_NAMES = {
    "sm_mhz": "smClockMhz", "memory_mhz": "memoryClockMhz", "temperature_c": "temperatureC", "power_mw": "powerMilliwatt",
    "other_processes": "otherProcesses", "load_milli": "loadMilli", "busy_milli": "busyMilli", "steal_milli": "stealMilli",
}  # fmt: skip

Sample = dict[str, int | None]


def covariates(observation: Mapping[str, Any]) -> dict[str, Any]:
    """`{"covariates": [...]}`: by round, the number of samples, why columns are null, and the means in each leg's turns.

    Empty where nothing was sampled.
    """
    told = [
        {"round": observed["round"], **_round(observed)}
        for observed in observed_rounds(observation)
        if isinstance(observed.get("covariates"), dict)
    ]
    return {"covariates": told} if told else {}


def disturbances(observation: Mapping[str, Any]) -> list[str]:
    """Why the covariates spoil an interleaved row; empty where they do not, or where nothing was to be seen."""
    stretches: dict[str, list[Sample]] = {"protected": [], "raw": [], "first half": [], "second half": []}
    for observed in observed_rounds(observation):
        by_turn = _samples_by_turn(observed)
        raw = [samples for turn, samples in by_turn if turn.role == "raw"]
        for samples in raw[: len(raw) // 2]:
            stretches["first half"] += samples
        for samples in raw[len(raw) // 2 :]:
            stretches["second half"] += samples
        stretches["raw"] += [sample for samples in raw for sample in samples]
        stretches["protected"] += [sample for turn, samples in by_turn if turn.role == "protected" for sample in samples]
    legs, null = ("protected", "raw"), ("first half", "second half")
    found = []
    if all(_clocks_differ(stretches[one], stretches[other]) for one, other in (legs, null)):
        found.append(f"the SM clock differed by more than {CLOCK_SHARE:.0%} between the legs, and between raw and raw too")
    if all(_throttled(stretches[one]) or _throttled(stretches[other]) for one, other in (legs, null)):
        found.append(f"the hardware throttled in more than {THROTTLED_SHARE:.0%} of the samples, in raw segments too")
    if all(_shared(stretches[one]) or _shared(stretches[other]) for one, other in (legs, null)):
        found.append("another process used the GPU, in raw segments too")
    return found


def _round(observed: Mapping[str, Any]) -> dict[str, Any]:
    told = observed["covariates"]
    by_role: dict[str, list[Sample]] = {}
    for turn, samples in _samples_by_turn(observed):
        by_role.setdefault(turn.role, []).extend(samples)
    legs = {
        role: {"samples": len(samples), **{name: _mean(samples, field) for field, name in _NAMES.items()}}
        for role, samples in by_role.items()
    }
    return {"samples": len(told.get("samples", [])), "reasons": dict(told.get("reasons", {})), "legs": legs}


def _samples_by_turn(observed: Mapping[str, Any]) -> list[tuple[Turn, list[Sample]]]:
    try:
        turns = turns_of(peek(observed["borders"]))
        told = observed["covariates"]
        samples = [dict(zip(told["fields"], sample, strict=True)) for sample in told["samples"]]
        return [(turn, [each for each in samples if turn.before.t_ns <= each["t_ns"] < turn.after.t_ns]) for turn in turns]
    except (IntegrityError, KeyError, TypeError, ValueError):
        return []


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
