"""A null row's figures: raw against raw, so that whatever differs comes from the allocation itself.

A null row has no protected leg, no overhead and no verdict: one difference with its interval, and whether that lies inside
the margin. `check` computes every figure again with this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.overhead.interval import interval_pct, log_ratio, mean_overhead_pct, overhead_pct, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import NullDifference
    from pytest_glasshouse.observation.results import LegResult, RoundResult


def null_figures(rounds: Sequence[RoundResult], *, margin_pct: float, current: bool = True) -> NullDifference:
    """`differencePct` is of the second raw leg's rate against the first's, over all rounds; its interval is over rounds.

    `roundsMeanPct` is the figure that the interval is of; a row that is not `current` lacks it.
    """
    legs = [(each.raw, each.raw2) for each in rounds]
    complete = [(first, second) for first, second in legs if first is not None and second is not None]
    if not complete or len(complete) != len(legs):
        raise ReportError("a null row's figures need both raw legs of every round")
    firsts, seconds = [pair[0] for pair in complete], [pair[1] for pair in complete]
    ratios = [log_ratio(_rate([second]), _rate([first])) for first, second in complete]
    ci90, ci95 = interval_pct(ratios, level=0.90), interval_pct(ratios, level=0.95)
    found: NullDifference = {
        "unit": firsts[0].unit,
        "firstUnits": sum(leg.units for leg in firsts),
        "secondUnits": sum(leg.units for leg in seconds),
        "firstElapsedSec": sum(leg.elapsed_ns for leg in firsts) / 1e9,
        "secondElapsedSec": sum(leg.elapsed_ns for leg in seconds) / 1e9,
        "differencePct": overhead_pct(_rate(seconds), _rate(firsts)),
        "differenceCi90Pct": None if ci90 is None else [ci90.low, ci90.high],
        "differenceCi95Pct": None if ci95 is None else [ci95.low, ci95.high],
        "qualifies": ci90 is not None and ci90.inside(margin_pct),
    }
    if current:
        found["roundsMeanPct"], found["roundLogRatios"] = mean_overhead_pct(ratios), ratios
    return found


def _rate(legs: Sequence[LegResult]) -> float:
    return rate(sum(leg.units for leg in legs), sum(leg.elapsed_ns for leg in legs) / 1e9)
