"""Whether and how far a row was to be extended, from its observation: the plan that was signed for, and its first rounds.

The run decides once, after the first rounds, and `check` decides again: a row with another number of rounds may have been
stopped when its figures looked good. The rule is in `overhead.extension`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_cut import cut_of
from pytest_glasshouse.analysis.sampling import sampled
from pytest_glasshouse.overhead.extension import Extension, rounds_needed
from pytest_glasshouse.overhead.interval import MIN_FOR_INTERVAL, interval_pct, log_ratio, rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.round_fields import ExtensionRecord
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult


def extension(observation: Observation, rounds: Sequence[RoundResult]) -> Extension | None:
    """The decision after the first rounds; None where no width was asked for or the first rounds are not complete."""
    plan = observation.get("plan")
    if plan is None or "halfWidthPct" not in plan or "maxRounds" not in plan:
        return None
    divided = cut_of(observation, rounds)
    count = plan["rounds"] if divided is None else divided.rounds
    first = first_log_ratios(rounds, count)
    if len(first) < max(MIN_FOR_INTERVAL, count):
        return None
    sampling = sampled(observation, [each.order for each in rounds[:count]], first_rounds=None)
    return rounds_needed(
        first, half_width_pct=float(plan["halfWidthPct"]), max_rounds=max(count, plan["maxRounds"]), sampling=sampling
    )


def first_log_ratios(rounds: Sequence[RoundResult], count: int) -> list[float]:
    """The log ratios of the first `count` rounds, of those with both legs."""
    return [
        log_ratio(rate(each.protected.units, each.protected.elapsed_ns / 1e9), rate(each.raw.units, each.raw.elapsed_ns / 1e9))
        for each in rounds[:count]
        if each.protected is not None and each.raw is not None
    ]


def extension_figures(decided: Extension | None, observation: Observation, rounds: Sequence[RoundResult]) -> ExtensionRecord:
    """`{"extension": {...}}`, with the interval as it was when the decision was made; nothing where there was none."""
    if decided is None:
        return {}
    first = rounds[: decided.first_rounds]
    sampling = sampled(observation, [each.order for each in first], first_rounds=None)
    interim = interval_pct(first_log_ratios(first, len(first)), level=0.95, sampling=sampling)
    return {
        "extension": {
            "halfWidthPct": decided.half_width_pct,
            "firstRounds": decided.first_rounds,
            "firstCi95Pct": None if interim is None else [interim.low, interim.high],
            "spreadPct": decided.spread_pct,
            "wanted": decided.wanted,
            "rounds": decided.rounds,
        }
    }
