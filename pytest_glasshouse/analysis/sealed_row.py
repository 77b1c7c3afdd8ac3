"""The figures of a row whose base is sealed: what its lifecycle took, and the rate of its only leg with an interval over rounds.

Such a row has no raw leg, so no overhead and no verdict. `check` computes every figure again with this module.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.figures import finite_loss, leg_rate, peak_memory, phases_sec, seconds, untimed_figures
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.overhead.interval import MIN_FOR_INTERVAL, middle_and_reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import SealedFigures, SealedRound
    from pytest_glasshouse.observation.results import LegResult, RoundResult


def sealed_figures(rounds: Sequence[RoundResult]) -> SealedFigures:
    """Totals over the rounds, and each round. Raises `ReportError` unless every round's protected leg was measured."""
    legs = [each.protected for each in rounds if each.protected is not None]
    if not legs or len(legs) != len(rounds):
        raise ReportError("a sealed row's figures need the protected leg of every round")
    units, elapsed_ns = sum(leg.units for leg in legs), sum(leg.elapsed_ns for leg in legs)
    stops = {leg.stop_reason for leg in legs}
    zeroize = [leg.zeroize_ns for leg in legs]
    return {
        "unit": legs[0].unit,
        "protectedUnits": units,
        "protectedElapsedSec": seconds(elapsed_ns),
        "protectedPerSec": leg_rate("protected", units, elapsed_ns),
        "protectedPerSecCi95": rate_interval([_rate(leg) for leg in legs]),
        "method": rate_method(len(legs)),
        "protectedSetupSec": seconds(sum(leg.setup_ns for leg in legs)),
        "protectedWarmupSec": seconds(sum(leg.warmup_ns for leg in legs)),
        "protectedCpuSecPerUnit": seconds(sum(leg.cpu_ns for leg in legs)) / units,
        "protectedPhasesSec": phases_sec(legs),
        "protectedPeakMemory": peak_memory(legs),
        "zeroizeSec": None if any(value is None for value in zeroize) else seconds(sum(value or 0 for value in zeroize)),
        **untimed_figures(legs),
        "protectedAdapterSha256": legs[-1].adapter_sha256,
        "protectedFinalLoss": finite_loss("protected", legs[-1].final_loss),
        "stopReason": stops.pop() if len(stops) == 1 else "mixed",
        "protectedRounds": [_round(each.number, leg) for each, leg in zip(rounds, legs, strict=True)],
    }


def rate_interval(rates: Sequence[float]) -> list[float] | None:
    """The 95 % interval of the rate, over rounds, in units per second; None for a single one."""
    if len(rates) < MIN_FOR_INTERVAL:
        return None
    middle, reach = middle_and_reach([math.log(rate) for rate in rates], tail=0.025)
    return [math.exp(middle - reach), math.exp(middle + reach)]


def rate_method(rounds: int) -> str:
    """How the rate and its interval were computed, as one short text."""
    if rounds == 1:
        return "rate of one round, single sample, no interval"
    return f"rate of totals over {rounds} rounds; t interval on the rounds' log rates, {rounds - 1} degrees of freedom"


def _rate(leg: LegResult) -> float:
    return leg_rate("protected", leg.units, leg.elapsed_ns)


def _round(number: int, leg: LegResult) -> SealedRound:
    return {
        "round": number,
        "protectedUnits": leg.units,
        "protectedElapsedSec": seconds(leg.elapsed_ns),
        "protectedPerSec": _rate(leg),
        "protectedSetupSec": seconds(leg.setup_ns),
        "protectedWarmupSec": seconds(leg.warmup_ns),
        "protectedWarmupUnits": leg.warmup_units,
        "protectedCpuSec": seconds(leg.cpu_ns),
        "protectedPhasesSec": phases_sec([leg]),
        "protectedAdapterSha256": leg.adapter_sha256,
        "protectedFinalLoss": finite_loss("protected", leg.final_loss),
        "protectedStopReason": leg.stop_reason,
        "zeroizeSec": None if leg.zeroize_ns is None else seconds(leg.zeroize_ns),
    }
