"""A row's figures from its rounds, by the arithmetic of `overhead`. `record` writes them and `check` computes them again."""

from __future__ import annotations

import math
from collections import Counter
from statistics import median
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.costs import cost_figures
from pytest_glasshouse.analysis.estimates import estimate_figures, read_back
from pytest_glasshouse.analysis.row_limits import implausible_reason, judged_limit, limit_json, log_ratios, shown_by
from pytest_glasshouse.analysis.wording import interpretation
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.overhead.interval import (
    FIXED,
    Sampling,
    interval_pct,
    mean_of_rounds,
    mean_overhead_pct,
    overhead_pct,
    rate,
)
from pytest_glasshouse.overhead.remarks import remarks
from pytest_glasshouse.overhead.verdict import lowest_plausible_pct, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.figure_fields import (
        JudgedFigures,
        LimitBasis,
        PeakMemory,
        RoundFigures,
        RowFigures,
        UntimedFigures,
        WorstRound,
    )
    from pytest_glasshouse.observation.results import LegResult, RoundResult
    from pytest_glasshouse.overhead.interval import Interval
    from pytest_glasshouse.overhead.null import Null

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


def row_figures(rounds: Sequence[RoundResult], *, sampling: Sampling = FIXED, usd_per_hour: float | None = None) -> RowFigures:
    """Totals over the rounds, per-round figures, estimates and costs: everything that needs no setting of the run.

    `sampling` as in `overhead.interval`; `usd_per_hour` where a price is known.
    """
    legs = measured_legs(rounds)
    units = {one.unit for pair in legs for one in pair}
    if len(units) != 1:
        raise ReportError(f"the legs count different units: {', '.join(sorted(units))}")
    protected, raw = [pair[0] for pair in legs], [pair[1] for pair in legs]
    protected_rate, raw_rate = _total_rate("protected", protected), _total_rate("raw", raw)
    stops = {one.stop_reason for pair in legs for one in pair}
    zeroize = [leg.zeroize_ns for leg in protected]
    return {
        "unit": units.pop(),
        "protectedUnits": _units(protected),
        "protectedElapsedSec": seconds(_elapsed_ns(protected)),
        "protectedPerSec": protected_rate,
        "protectedSetupSec": seconds(sum(leg.setup_ns for leg in protected)),
        "protectedWarmupSec": seconds(sum(leg.warmup_ns for leg in protected)),
        "protectedCpuSecPerUnit": seconds(sum(leg.cpu_ns for leg in protected)) / _units(protected),
        "protectedPhasesSec": phases_sec(protected),
        "protectedPeakMemory": peak_memory(protected),
        "rawUnits": _units(raw),
        "rawElapsedSec": seconds(_elapsed_ns(raw)),
        "rawPerSec": raw_rate,
        "rawSetupSec": seconds(sum(leg.setup_ns for leg in raw)),
        "rawWarmupSec": seconds(sum(leg.warmup_ns for leg in raw)),
        "rawCpuSecPerUnit": seconds(sum(leg.cpu_ns for leg in raw)) / _units(raw),
        "rawPhasesSec": phases_sec(raw),
        "rawPeakMemory": peak_memory(raw),
        "zeroizeSec": None if any(value is None for value in zeroize) else seconds(sum(value or 0 for value in zeroize)),
        **untimed_figures(protected),
        "overheadPct": overhead_pct(protected_rate, raw_rate),
        "protectedAdapterSha256": protected[-1].adapter_sha256,
        "rawAdapterSha256": raw[-1].adapter_sha256,
        "protectedFinalLoss": finite_loss("protected", protected[-1].final_loss),
        "rawFinalLoss": finite_loss("raw", raw[-1].final_loss),
        "stopReason": stops.pop() if len(stops) == 1 else "mixed",
        "roundFigures": [_round_figures(each) for each in rounds],
        **estimate_figures(rounds, sampling=sampling),
        **cost_figures(legs, usd_per_hour=usd_per_hour),
    }


def judged_figures(
    figures: RowFigures,
    *,
    order: str,
    margin_pct: float,
    fixed_order: bool,
    max_overhead_pct: float | None,
    sampling: Sampling = FIXED,
    null_first: bool = False,
    by_round: bool = True,
    current: bool = False,
    null: Null | None = None,
) -> JudgedFigures:
    """Interval, null, verdict, limit and their wording, from the row's figures and the settings of the run.

    `current` rows are those whose plan says how they are sampled: `null`, raw against raw between the processes of their
    allocation, may hide their verdict. The others are judged by the nulls inside them, with `null_first` (as in
    `overhead.verdict`) before revision 3, and their sentence has the ratio of totals. Before revision 4 no single round was
    judged (`by_round` False).
    """
    ratios = log_ratios(figures)
    ci95, ci90 = (interval_pct(ratios, level=level, sampling=sampling) for level in (0.95, 0.90))
    estimated = read_back(figures["estimates"]) if "estimates" in figures else None
    inside = () if estimated is None else estimated.nulls
    lowest_pct = lowest_plausible_pct(shown_by(inside), margin_pct=margin_pct) if by_round else None
    if current:
        nulls: tuple[Null, ...] = () if null is None else (null,)
    else:
        nulls = inside
    judged = verdict(
        ratios,
        margin_pct=margin_pct,
        fixed_order=fixed_order,
        nulls=nulls,
        remarks=() if estimated is None else remarks(estimated, both_legs=not current),
        sampling=sampling,
        null_first=null_first,
        needs_null=not current or order != "interleaved",
        lowest_pct=lowest_pct,
    )
    mean = mean_overhead_pct(ratios, sampling)
    basis: LimitBasis = {
        "verdict": judged.verdict.value,
        "marginPct": margin_pct,
        "fixedOrder": fixed_order,
        "roundFigures": figures["roundFigures"],
    }
    implausible = not null_first and implausible_reason(basis, sampling, lowest_pct)
    found: JudgedFigures = {
        "roundsMeanPct": mean,
        "overheadCi95Pct": _pair(ci95),
        "overheadCi90Pct": _pair(ci90),
        "method": method(len(ratios), order=order, sampling=sampling, current=current),
        "verdict": judged.verdict.value,
        "verdictReason": judged.reason,
        "moreRounds": judged.more_rounds,
        "interpretation": interpretation(
            judged, overhead_pct=mean if current else figures["overheadPct"], ci95=ci95, order=order
        ),
        "limit": limit_json(judged_limit(basis, max_overhead_pct, sampling=sampling, implausible=bool(implausible))),
    }
    if nulls:
        found["nullQualifies"] = all(null.qualifies(margin_pct) for null in nulls)
    if current:
        found["worstRound"] = worst_round(figures["roundFigures"], margin_pct)
        if null is not None:
            found["allocationNull"] = {"rounds": len(null.log_ratios), "pct": null.pct, "ci90Pct": _pair(null.ci90)}
    return found


def worst_round(rounds: Sequence[RoundFigures], margin_pct: float) -> WorstRound:
    """The round with the largest overhead, and how many are above the median by more than the margin: a mean hides either."""
    overheads = [each["overheadPct"] for each in rounds]
    middle = median(overheads)
    worst = max(rounds, key=lambda each: each["overheadPct"])
    return {
        "round": worst["round"],
        "overheadPct": worst["overheadPct"],
        "slow": sum(value > middle + margin_pct for value in overheads),
        "rounds": len(rounds),
    }


def method(rounds: int, *, order: str, sampling: Sampling = FIXED, current: bool = False) -> str:
    """How the overhead and its interval were computed, as one short text."""
    kind = "interleaved" if order == "interleaved" else "sequential"
    if rounds == 1:
        return f"ratio of rates, one {kind} round, no interval"
    if current:
        blocks = [0.0] * rounds
        freedom = mean_of_rounds(blocks, sampling).freedom
        who = ", blocked by who started first" if freedom < (sampling.first_rounds or rounds) - 1 else ""
        looks = ", repeated over the looks" if sampling.sequential else ""
        return f"mean log ratio of {rounds} {kind} rounds; t interval over rounds{who}{looks}, {freedom} degrees of freedom"
    freedom_text = f"{rounds - 1} degrees of freedom"
    return f"ratio of totals over {rounds} {kind} rounds; t interval on the rounds' log ratios, {freedom_text}"


def _pair(interval: Interval | None) -> list[float] | None:
    return None if interval is None else [interval.low, interval.high]


def _units(legs: Sequence[LegResult]) -> int:
    return sum(leg.units for leg in legs)


def _elapsed_ns(legs: Sequence[LegResult]) -> int:
    return sum(leg.elapsed_ns for leg in legs)


def _total_rate(name: str, legs: Sequence[LegResult]) -> float:
    return leg_rate(name, _units(legs), _elapsed_ns(legs))


def phases_sec(legs: Sequence[LegResult]) -> dict[str, float]:
    """Seconds of each phase, over all `legs`."""
    phases: Counter[str] = Counter()
    for leg in legs:
        phases.update(leg.phases_ns)
    return {phase: seconds(phases[phase]) for phase in sorted(phases)}


def peak_memory(legs: Sequence[LegResult]) -> PeakMemory:
    """The largest of the legs' peaks."""
    peaks = [leg.peak_memory_bytes for leg in legs if leg.peak_memory_bytes is not None]
    if len(peaks) < len(legs):
        return {"bytes": None, "reason": _NO_PEAK}
    return {"bytes": max(peaks), "reason": None}


def untimed_figures(legs: Sequence[LegResult]) -> UntimedFigures:
    """Figures outside the legs' time: the memory scan, and the plaintext's exposure. Older reports have neither."""
    figures: UntimedFigures = {}
    scans = [leg.scan_ns for leg in legs if leg.scan_ns is not None]
    exposures = [leg.exposure_byte_s for leg in legs if leg.exposure_byte_s is not None]
    peaks = [leg.exposure_peak_bytes for leg in legs if leg.exposure_peak_bytes is not None]
    if len(scans) == len(legs):
        figures["scanSec"] = seconds(sum(scans))
    if len(exposures) == len(peaks) == len(legs):
        figures["exposureByteSec"] = sum(exposures)
        figures["exposurePeakBytes"] = max(peaks)
    return figures


def _round_figures(each: RoundResult) -> RoundFigures:
    ((protected, raw),) = measured_legs([each])
    protected_rate = leg_rate("protected", protected.units, protected.elapsed_ns)
    raw_rate = leg_rate("raw", raw.units, raw.elapsed_ns)
    return {
        "round": each.number,
        "order": [leg for leg in each.order if leg in {"protected", "raw"}],
        "protectedUnits": protected.units,
        "protectedElapsedSec": seconds(protected.elapsed_ns),
        "protectedPerSec": protected_rate,
        "protectedSetupSec": seconds(protected.setup_ns),
        "protectedWarmupSec": seconds(protected.warmup_ns),
        "protectedWarmupUnits": protected.warmup_units,
        "protectedCpuSec": seconds(protected.cpu_ns),
        "protectedAdapterSha256": protected.adapter_sha256,
        "protectedFinalLoss": finite_loss("protected", protected.final_loss),
        "protectedStopReason": protected.stop_reason,
        "rawUnits": raw.units,
        "rawElapsedSec": seconds(raw.elapsed_ns),
        "rawPerSec": raw_rate,
        "rawSetupSec": seconds(raw.setup_ns),
        "rawWarmupSec": seconds(raw.warmup_ns),
        "rawWarmupUnits": raw.warmup_units,
        "rawCpuSec": seconds(raw.cpu_ns),
        "rawAdapterSha256": raw.adapter_sha256,
        "rawFinalLoss": finite_loss("raw", raw.final_loss),
        "rawStopReason": raw.stop_reason,
        "zeroizeSec": None if protected.zeroize_ns is None else seconds(protected.zeroize_ns),
        "overheadPct": overhead_pct(protected_rate, raw_rate),
    }


def leg_rate(name: str, units: int, elapsed_ns: int) -> float:
    """Units per second. Raises `ReportError`, which names the leg."""
    try:
        return rate(units, seconds(elapsed_ns))
    except ValueError as error:
        raise ReportError(f"{name} leg: {error}") from error


def finite_loss(name: str, loss: str) -> float:
    """A final loss. Raises `ReportError`, which names the leg, for one that is not finite."""
    try:
        value = float(loss)
    except ValueError as error:
        raise ReportError(f"{name} leg: final loss is not a number") from error
    if not math.isfinite(value):
        raise ReportError(f"{name} leg: final loss is not finite")
    return value
