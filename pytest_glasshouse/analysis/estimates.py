"""A row's estimates as the report holds them: `overhead.estimate` in camelCase, nothing computed here.

They are read back too, because verdict and reason follow from what a reader has: the report.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.effects import Effect, Outliers, Steadiness
from pytest_glasshouse.overhead.estimate import Estimates, Figure, estimates
from pytest_glasshouse.overhead.interval import FIXED, Interval, Sampling
from pytest_glasshouse.overhead.null import Null
from pytest_glasshouse.overhead.segments import round_segments

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import EffectFigures, EstimateFigures, EstimatesRecord
    from pytest_glasshouse.observation.results import RoundResult


@dataclass(frozen=True, kw_only=True)
class JudgedEstimates:
    """What a verdict and its reason need of a report's estimates."""

    nulls: tuple[Null, ...]
    agree: bool | None
    trimmed: Figure
    outliers: Outliers
    steadiness: tuple[Steadiness, ...]


def estimate_figures(rounds: Sequence[RoundResult], *, sampling: Sampling = FIXED) -> EstimatesRecord:
    """`{"estimates": {...}}` of interleaved rounds; nothing where any round has no pairs of segments."""
    if not rounds or not all(each.pairs for each in rounds):
        return {}
    found = estimates([round_segments(each.number, each.pairs) for each in rounds], sampling=sampling)
    return {"estimates": _json(found)}


def read_back(given: EstimateFigures) -> JudgedEstimates:
    """A row's estimates, read back from the report."""
    outliers = given["outlierPairs"]
    return JudgedEstimates(
        nulls=nulls_back(given),
        agree=given["agree"],
        trimmed=Figure(pct=given["trimmedPct"], ci95=_interval(given["trimmedCi95Pct"]), ci90=_interval(given["trimmedCi90Pct"])),
        outliers=Outliers(protected=outliers["protected"], raw=outliers["raw"], p=outliers["p"]),
        steadiness=tuple(
            Steadiness(leg=each["leg"], state=each["state"], drift_pct=each["driftPct"]) for each in given["steadiness"]
        ),
    )


def nulls_back(given: EstimateFigures) -> tuple[Null, ...]:
    """A row's own nulls, read back from the report."""
    return tuple(
        Null(kind=each["kind"], log_ratios=tuple(each["roundLogRatios"]), pct=each["pct"], ci90=_interval(each["ci90Pct"]))
        for each in given["nulls"]
    )


def _json(found: Estimates) -> EstimateFigures:
    return {
        "trimmedPct": found.trimmed.pct,
        "trimmedCi95Pct": _pair(found.trimmed.ci95),
        "trimmedCi90Pct": _pair(found.trimmed.ci90),
        "agree": found.agree,
        "outlierPairs": {"protected": found.outliers.protected, "raw": found.outliers.raw, "p": found.outliers.p},
        "nulls": [
            {"kind": each.kind, "pct": each.pct, "ci90Pct": _pair(each.ci90), "roundLogRatios": list(each.log_ratios)}
            for each in found.nulls
        ],
        "minimumDetectablePct": found.minimum_detectable_pct,
        "betweenRoundsPct": found.between_pct,
        "withinRoundsPct": found.within_pct,
        "processStartPct": found.start_pct,
        "orderEffect": _effect(found.order),
        "positionEffect": _effect(found.position),
        "pairs": found.pairs,
        "effectivePairs": found.effective_pairs,
        "autocorrelation": found.autocorrelation,
        "commonAutocorrelation": found.common_autocorrelation,
        "steadiness": [{"leg": each.leg, "state": each.state, "driftPct": each.drift_pct} for each in found.steadiness],
    }


def _effect(found: Effect | None) -> EffectFigures | None:
    return None if found is None else {"pct": found.pct, "ci95Pct": _pair(found.ci95)}


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _interval(pair: Sequence[float] | None) -> Interval | None:
    return None if pair is None else Interval(low=pair[0], high=pair[1])
