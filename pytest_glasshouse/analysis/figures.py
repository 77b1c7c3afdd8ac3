"""A row's numbers from its rounds. Pure, and shared: `record` writes what this computes and `check` computes it again.

This module knows units, nanoseconds and the arithmetic of `overhead`; it refuses to know findings or files.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.analysis.costs import cost_figures
from pytest_glasshouse.analysis.estimates import estimate_figures, told
from pytest_glasshouse.analysis.row_limits import limit_json, limit_of, log_ratios
from pytest_glasshouse.analysis.wording import interpretation
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.overhead.interval import interval_pct, mean_overhead_pct, overhead_pct, rate
from pytest_glasshouse.overhead.remarks import remarks
from pytest_glasshouse.overhead.verdict import verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_glasshouse.observation.results import LegResult, RoundResult
    from pytest_glasshouse.overhead.interval import Interval

Figures = dict[str, Any]

_NO_PEAK = "not observed by this leg"


def seconds(nanoseconds: int) -> float:
    """Seconds of whole nanoseconds: a double keeps all of them for 104 days."""
    return nanoseconds / 1e9


def measured_legs(rounds: Sequence[RoundResult]) -> list[tuple[LegResult, LegResult]]:
    """Both legs of every round, protected first. Raises `ReportError` when one is missing."""
    legs = [(each.protected, each.raw) for each in rounds if each.protected is not None and each.raw is not None]
    if not legs or len(legs) != len(rounds):
        raise ReportError("a row's figures need both legs of every round")
    return legs


def row_figures(rounds: Sequence[RoundResult], *, first_rounds: int | None = None, usd_per_hour: float | None = None) -> Figures:
    """Totals over the rounds, per-round figures, estimates and costs: everything that needs no setting of the run.

    `first_rounds` as in `overhead.interval`, for a row that was extended; `usd_per_hour` where a price is known.
    """
    legs = measured_legs(rounds)
    units = {one.unit for pair in legs for one in pair}
    if len(units) != 1:
        raise ReportError(f"the legs count different units: {', '.join(sorted(units))}")
    protected, raw = [pair[0] for pair in legs], [pair[1] for pair in legs]
    totals = {**_leg_totals("protected", protected), **_leg_totals("raw", raw)}
    stops = {one.stop_reason for pair in legs for one in pair}
    zeroize = [leg.zeroize_ns for leg in protected]
    return {
        "unit": units.pop(),
        **totals,
        "zeroizeSec": None if any(value is None for value in zeroize) else seconds(sum(value or 0 for value in zeroize)),
        **_beside(protected),
        "overheadPct": overhead_pct(totals["protectedPerSec"], totals["rawPerSec"]),
        "protectedAdapterSha256": protected[-1].adapter_sha256,
        "rawAdapterSha256": raw[-1].adapter_sha256,
        "protectedFinalLoss": _finite("protected", protected[-1].final_loss),
        "rawFinalLoss": _finite("raw", raw[-1].final_loss),
        "stopReason": stops.pop() if len(stops) == 1 else "mixed",
        "roundFigures": [_round_figures(each) for each in rounds],
        **estimate_figures(rounds, first_rounds=first_rounds),
        **cost_figures(legs, usd_per_hour=usd_per_hour),
    }


def judged_figures(
    figures: Mapping[str, Any],
    *,
    order: str,
    margin_pct: float,
    fixed_order: bool,
    max_overhead_pct: float | None,
    first_rounds: int | None = None,
    null_first: bool = False,
) -> Figures:
    """Interval, null, verdict, limit and their wording, from the row's figures and the settings of the run.

    `null_first` as in `overhead.verdict`: as reports were judged before revision 3.
    """
    ratios = log_ratios(figures)
    ci95, ci90 = (interval_pct(ratios, level=level, first_rounds=first_rounds) for level in (0.95, 0.90))
    estimated = told(figures)
    nulls = () if estimated is None else estimated.nulls
    judged = verdict(
        ratios,
        margin_pct=margin_pct,
        fixed_order=fixed_order,
        nulls=nulls,
        remarks=() if estimated is None else remarks(estimated),
        first_rounds=first_rounds,
        null_first=null_first,
    )
    mean = mean_overhead_pct(ratios)
    row = {**figures, "marginPct": margin_pct, "fixedOrder": fixed_order, "verdict": judged.verdict.value}
    row |= {} if first_rounds is None else {"extension": {"firstRounds": first_rounds}}
    return {
        "roundsMeanPct": mean,
        "overheadCi95Pct": _pair(ci95),
        "overheadCi90Pct": _pair(ci90),
        **({"nullQualifies": all(null.qualifies(margin_pct) for null in nulls)} if nulls else {}),
        "method": method(len(ratios), order=order),
        "verdict": judged.verdict.value,
        "verdictReason": judged.reason,
        "moreRounds": judged.more_rounds,
        "interpretation": interpretation(judged, overhead_pct=figures["overheadPct"], ci95=ci95, order=order),
        "limit": limit_json(limit_of(row, max_overhead_pct, audited=not null_first)),
    }


def method(rounds: int, *, order: str) -> str:
    """How the overhead and its interval were computed, in words that a table can carry."""
    kind = "interleaved" if order == "interleaved" else "sequential"
    if rounds == 1:
        return f"ratio of rates, one {kind} round, no interval"
    freedom = f"{rounds - 1} degrees of freedom"
    return f"ratio of totals over {rounds} {kind} rounds; t interval on the rounds' log ratios, {freedom}"


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _leg_totals(name: str, legs: Sequence[LegResult]) -> Figures:
    units, elapsed_ns = sum(leg.units for leg in legs), sum(leg.elapsed_ns for leg in legs)
    phases: Counter[str] = Counter()
    for leg in legs:
        phases.update(leg.phases_ns)
    peaks = [leg.peak_memory_bytes for leg in legs]
    peak = None if any(value is None for value in peaks) else max(value or 0 for value in peaks)
    return {
        f"{name}Units": units,
        f"{name}ElapsedSec": seconds(elapsed_ns),
        f"{name}PerSec": _rate(name, units, elapsed_ns),
        f"{name}SetupSec": seconds(sum(leg.setup_ns for leg in legs)),
        f"{name}WarmupSec": seconds(sum(leg.warmup_ns for leg in legs)),
        f"{name}CpuSecPerUnit": seconds(sum(leg.cpu_ns for leg in legs)) / units,
        f"{name}PhasesSec": {phase: seconds(phases[phase]) for phase in sorted(phases)},
        f"{name}PeakMemory": {"bytes": peak, "reason": _NO_PEAK if peak is None else None},
    }


def _beside(legs: Sequence[LegResult]) -> Figures:
    """What is in no leg's time: the memory scan, and the plaintext's exposure. Older reports have neither."""
    figures: Figures = {}
    scans = [leg.scan_ns for leg in legs if leg.scan_ns is not None]
    exposures = [leg.exposure_byte_s for leg in legs if leg.exposure_byte_s is not None]
    peaks = [leg.exposure_peak_bytes for leg in legs if leg.exposure_peak_bytes is not None]
    if len(scans) == len(legs):
        figures["scanSec"] = seconds(sum(scans))
    if len(exposures) == len(peaks) == len(legs):
        figures |= {"exposureByteSec": sum(exposures), "exposurePeakBytes": max(peaks)}
    return figures


def _round_figures(each: RoundResult) -> Figures:
    ((protected, raw),) = measured_legs([each])
    figures: Figures = {"round": each.number, "order": [leg for leg in each.order if leg in {"protected", "raw"}]}
    for name, leg in (("protected", protected), ("raw", raw)):
        figures |= {
            f"{name}Units": leg.units,
            f"{name}ElapsedSec": seconds(leg.elapsed_ns),
            f"{name}PerSec": _rate(name, leg.units, leg.elapsed_ns),
            f"{name}SetupSec": seconds(leg.setup_ns),
            f"{name}WarmupSec": seconds(leg.warmup_ns),
            f"{name}WarmupUnits": leg.warmup_units,
            f"{name}CpuSec": seconds(leg.cpu_ns),
            f"{name}AdapterSha256": leg.adapter_sha256,
            f"{name}FinalLoss": _finite(name, leg.final_loss),
            f"{name}StopReason": leg.stop_reason,
        }
    figures["zeroizeSec"] = None if protected.zeroize_ns is None else seconds(protected.zeroize_ns)
    figures["overheadPct"] = overhead_pct(figures["protectedPerSec"], figures["rawPerSec"])
    return figures


def _rate(name: str, units: int, elapsed_ns: int) -> float:
    try:
        return rate(units, seconds(elapsed_ns))
    except ValueError as error:
        raise ReportError(f"{name} leg: {error}") from error


def _finite(name: str, loss: str) -> float:
    try:
        value = float(loss)
    except ValueError as error:
        raise ReportError(f"{name} leg: final loss is not a number") from error
    if not math.isfinite(value):
        raise ReportError(f"{name} leg: final loss is not finite")
    return value
