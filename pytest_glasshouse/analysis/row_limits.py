"""Whether a row is under a limit, from its record alone: for plugin, gate, badge, page, tables and `check`.

This module selects the fields of a record that the judgement needs. All of them matter: without the number of rounds that an
extension was decided on, a bound would be too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import log_ratio
from pytest_glasshouse.overhead.verdict import LimitJudgement, Verdict, implausible_negative, judge_limit

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import MeasuredRow, NullRow, SealedRow
    from pytest_glasshouse.analysis.figure_fields import ExtensionRecord, LimitBasis, LimitFigures, RoundsRecord


def log_ratios(row: RoundsRecord) -> list[float]:
    """One log ratio per round, protected over raw."""
    return [log_ratio(each["protectedPerSec"], each["rawPerSec"]) for each in row["roundFigures"]]


def first_rounds(row: ExtensionRecord) -> int | None:
    """The rounds that a row's extension was decided on, as `overhead.interval` takes them; None for a row without one."""
    return row["extension"]["firstRounds"] if "extension" in row else None


def implausible(row: MeasuredRow) -> bool:
    """Whether a row lies below 0 by more than its margin, by its verdict or by its figures, whichever of them says so."""
    return _implausible(row, first_rounds(row))


def _implausible(row: LimitBasis, first: int | None) -> bool:
    if row["verdict"] == Verdict.IMPLAUSIBLE_NEGATIVE.value:
        return True
    found = implausible_negative(log_ratios(row), margin_pct=row["marginPct"], first_rounds=first)
    return found and not row["fixedOrder"]


def limit_of(row: MeasuredRow | SealedRow | NullRow, limit_pct: float | None = None) -> LimitJudgement | None:
    """A measured row under `limit_pct`, by default the limit that its run was given; None where there is neither.

    None for a null row and for one whose base is sealed, too: they have no overhead.
    """
    if "roundFigures" not in row:
        return None
    own = row["limit"]
    return judged_limit(row, own["limitPct"] if limit_pct is None and own else limit_pct, first_rounds=first_rounds(row))


def judged_limit(
    row: LimitBasis, limit_pct: float | None, *, first_rounds: int | None, implausible_fails: bool = True
) -> LimitJudgement | None:
    """What `row` is under `limit_pct`, `first_rounds` being those that its extension was decided on; None without a limit.

    An implausible negative is within no limit, except in records written before that rule (`implausible_fails` False), which
    only `check` passes.
    """
    if limit_pct is None:
        return None
    return judge_limit(
        log_ratios(row),
        limit_pct=limit_pct,
        fixed_order=row["fixedOrder"],
        first_rounds=first_rounds,
        implausible=implausible_fails and _implausible(row, first_rounds),
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
