"""A row's fixed costs and what whole jobs cost with them, as the report holds them; the arithmetic is `overhead.cost`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.cost import JOB_HOURS, RoundCost, job_cost, seconds
from pytest_glasshouse.overhead.interval import log_ratio, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import CostFigures, FixedCost, JobCostRecord
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import LegResult
    from pytest_glasshouse.rows.leg_order import LegName

    Legs = Sequence[tuple[LegResult, LegResult]]

#: The phases of either leg in the order they happen. `setup` holds the first four, and what else comes before the load is done.
_PHASES: dict[LegName, tuple[str, ...]] = {"protected": ("attest", "release", "open", "load"), "raw": ("load",)}


def cost_figures(legs: Legs, *, usd_per_hour: float | None) -> CostFigures:
    """`fixedCosts`, `totalCost` and `priceUsdPerHour`, from both legs of every round, protected first.

    The total cost is left empty where a round's zeroize was not seen to its end.
    """
    fixed = [*_fixed("protected", [pair[0] for pair in legs]), *_fixed("raw", [pair[1] for pair in legs])]
    zeroized = [_seconds(pair[0].zeroize_ns) for pair in legs if pair[0].zeroize_ns is not None]
    if len(zeroized) == len(legs):
        fixed.append(_cost("protected", "zeroize", zeroized))
    rounds = [
        RoundCost(
            protected_setup_s=_seconds(protected.setup_ns),
            raw_setup_s=_seconds(raw.setup_ns),
            zeroize_s=zeroize_s,
            log_ratio=log_ratio(_rate(protected), _rate(raw)),
        )
        for (protected, raw), zeroize_s in zip(legs, zeroized, strict=False)
    ]
    total = [_job(rounds, hours, usd_per_hour) for hours in JOB_HOURS] if len(zeroized) == len(legs) else []
    return {"fixedCosts": fixed, "totalCost": total, "priceUsdPerHour": usd_per_hour}


def price(observation: Observation) -> float | None:
    """What the allocation cost, USD per hour, as the observation has it; None where it is not known."""
    allocation = observation.get("allocation")
    found = None if allocation is None else allocation.get("priceUsdPerHour")
    return None if found is None else float(found)


def _fixed(name: LegName, legs: Sequence[LegResult]) -> list[FixedCost]:
    found = [_cost(name, "setup", [_seconds(leg.setup_ns) for leg in legs])]
    for phase in _PHASES[name]:
        taken = [_seconds(leg.phases_ns[phase]) for leg in legs if phase in leg.phases_ns]
        if len(taken) == len(legs):
            found.append(_cost(name, phase, taken))
    found.append(_cost(name, "warmup", [_seconds(leg.warmup_ns) for leg in legs]))
    return found


def _cost(leg: LegName, phase: str, taken: Sequence[float]) -> FixedCost:
    found = seconds(taken)
    return {"leg": leg, "phase": phase, "meanSec": found.mean, "ci95Sec": None if found.ci95 is None else list(found.ci95)}


def _job(rounds: Sequence[RoundCost], hours: int, usd_per_hour: float | None) -> JobCostRecord:
    found = job_cost(rounds, hours=hours, usd_per_hour=usd_per_hour)
    return {
        "hours": hours,
        "pct": found.pct,
        "ci95Pct": None if found.ci95 is None else [found.ci95.low, found.ci95.high],
        "usd": found.usd,
        "usdCi95": None if found.usd_ci95 is None else list(found.usd_ci95),
    }


def _rate(leg: LegResult) -> float:
    return rate(leg.units, _seconds(leg.elapsed_ns))


def _seconds(nanoseconds: int) -> float:
    return nanoseconds / 1e9
