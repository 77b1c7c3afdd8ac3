"""Whether a row is under a limit, from its record alone: for plugin, gate, badge, page, tables and `check`.

This module selects the fields of a record that the judgement needs. All of them matter: without how its rounds came about
(`analysis.sampling`), a bound would be too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.estimates import nulls_back
from pytest_glasshouse.analysis.sampling import sampling_of
from pytest_glasshouse.overhead.interval import interval_pct, log_ratio, mean_overhead_pct
from pytest_glasshouse.overhead.verdict import (
    AT_FAULT,
    LimitJudgement,
    Verdict,
    implausible_negative,
    judge_limit,
    lowest_plausible_pct,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow, NullRow, SealedRow
    from pytest_glasshouse.analysis.figure_fields import LimitBasis, LimitFigures, RoundsRecord
    from pytest_glasshouse.overhead.interval import Sampling
    from pytest_glasshouse.overhead.null import Null


def log_ratios(row: RoundsRecord) -> list[float]:
    """One log ratio per round, protected over raw."""
    return [log_ratio(each["protectedPerSec"], each["rawPerSec"]) for each in row["roundFigures"]]


def implausible(row: MeasuredRow, null_rows: Sequence[NullRow] = ()) -> str:
    """Why a row lies implausibly below 0, by its verdict or by its figures, whichever of them says so; empty where it does not.

    `null_rows` are the report's: those of the row's allocation show how far raw legs are from each other there.
    """
    lowest_pct = lowest_plausible_pct(_shown(row, null_rows), margin_pct=row["marginPct"])
    return implausible_reason(row, sampling_of(row), lowest_pct)


def implausible_reason(row: LimitBasis, sampling: Sampling, lowest_pct: float | None) -> str:
    """The same, of figures that are not a record yet, with `overhead.verdict`'s `lowest_pct`."""
    found = implausible_negative(
        log_ratios(row), margin_pct=row["marginPct"], fixed_order=row["fixedOrder"], sampling=sampling, lowest_pct=lowest_pct
    )
    if found is not None:
        return found.reason
    return f"as its verdict says: {AT_FAULT}" if row["verdict"] == Verdict.IMPLAUSIBLE_NEGATIVE.value else ""


def _shown(row: MeasuredRow, null_rows: Sequence[NullRow]) -> list[tuple[float, float, int]]:
    """What raw legs show against each other on a row's allocation: its own second raw leg, and the null rows there."""
    found = shown_by(nulls_back(row["estimates"]) if "estimates" in row else ())
    for null in null_rows:
        wide = null.get("differenceCi95Pct")
        if wide is not None and (null["provider"], null["allocationName"]) == (row["provider"], row["allocationName"]):
            found.append((null["differencePct"], (wide[1] - wide[0]) / 2, null["rounds"]))
    return found


def shown_by(nulls: Sequence[Null]) -> list[tuple[float, float, int]]:
    """Of nulls of two raw processes, over two rounds or more: mean, 95 % half-width and rounds, for `lowest_plausible_pct`."""
    found = []
    for null in nulls:
        wide = interval_pct(null.log_ratios, level=0.95)
        if null.kind == "second raw leg" and wide is not None:
            found.append((mean_overhead_pct(null.log_ratios), wide.half_width, len(null.log_ratios)))
    return found


def limit_of(
    row: MeasuredRow | SealedRow | NullRow, limit_pct: float | None = None, *, null_rows: Sequence[NullRow] = ()
) -> LimitJudgement | None:
    """A measured row under `limit_pct`, by default the limit that its run was given; None where there is neither.

    None for a null row and for one whose base is sealed, too: they have no overhead. `null_rows` as in `implausible`.
    """
    if "roundFigures" not in row:
        return None
    own = row["limit"]
    return judged_limit(
        row,
        own["limitPct"] if limit_pct is None and own else limit_pct,
        sampling=sampling_of(row),
        implausible=bool(implausible(row, null_rows)),
    )


def judged_limit(row: LimitBasis, limit_pct: float | None, *, sampling: Sampling, implausible: bool) -> LimitJudgement | None:
    """What `row` is under `limit_pct`, its rounds having come about as `sampling` says; None without a limit.

    An implausible negative is within no limit, except in records written before that rule.
    """
    if limit_pct is None:
        return None
    return judge_limit(
        log_ratios(row),
        limit_pct=limit_pct,
        fixed_order=row["fixedOrder"],
        sampling=sampling,
        implausible=implausible,
    )


def limit_json(judged: LimitJudgement | None) -> LimitFigures | None:
    """The judgement as a record holds it."""
    if judged is None:
        return None
    return {
        "limitPct": judged.limit_pct,
        "judgement": judged.verdict.value,
        "reason": judged.reason,
        "lower95Pct": judged.lower95_pct,
        "upper95Pct": judged.upper95_pct,
    }
