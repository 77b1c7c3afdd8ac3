"""Whether a row is under a limit, from its record alone: for plugin, gate, badge, page, tables and `check`.

This module selects the fields of a record that the judgement needs. All of them matter: without how its rounds came about
(`analysis.sampling`), a bound would be too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.sampling import sampling_of
from pytest_glasshouse.overhead.interval import log_ratio
from pytest_glasshouse.overhead.verdict import LimitJudgement, Verdict, implausible_negative, judge_limit

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import MeasuredRow, NullRow, SealedRow
    from pytest_glasshouse.analysis.figure_fields import LimitBasis, LimitFigures, RoundsRecord
    from pytest_glasshouse.overhead.interval import Sampling


def log_ratios(row: RoundsRecord) -> list[float]:
    """One log ratio per round, protected over raw."""
    return [log_ratio(each["protectedPerSec"], each["rawPerSec"]) for each in row["roundFigures"]]


def implausible(row: MeasuredRow) -> bool:
    """Whether a row lies below 0 by more than its margin, by its verdict or by its figures, whichever of them says so."""
    return _implausible(row, sampling_of(row))


def _implausible(row: LimitBasis, sampling: Sampling) -> bool:
    if row["verdict"] == Verdict.IMPLAUSIBLE_NEGATIVE.value:
        return True
    found = implausible_negative(log_ratios(row), margin_pct=row["marginPct"], sampling=sampling)
    return found and not row["fixedOrder"]


def limit_of(row: MeasuredRow | SealedRow | NullRow, limit_pct: float | None = None) -> LimitJudgement | None:
    """A measured row under `limit_pct`, by default the limit that its run was given; None where there is neither.

    None for a null row and for one whose base is sealed, too: they have no overhead.
    """
    if "roundFigures" not in row:
        return None
    own = row["limit"]
    return judged_limit(row, own["limitPct"] if limit_pct is None and own else limit_pct, sampling=sampling_of(row))


def judged_limit(
    row: LimitBasis, limit_pct: float | None, *, sampling: Sampling, implausible_fails: bool = True
) -> LimitJudgement | None:
    """What `row` is under `limit_pct`, its rounds having come about as `sampling` says; None without a limit.

    An implausible negative is within no limit, except in records written before that rule (`implausible_fails` False), which
    only `check` passes.
    """
    if limit_pct is None:
        return None
    return judge_limit(
        log_ratios(row),
        limit_pct=limit_pct,
        fixed_order=row["fixedOrder"],
        sampling=sampling,
        implausible=implausible_fails and _implausible(row, sampling),
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
