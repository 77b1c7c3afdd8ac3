"""Whether a row is under a limit, from its record alone: plugin, gate, badge, page, tables and `check` ask here and nowhere else.

This module knows which fields of a record a judgement needs. Whoever passes `judge_limit` less than all of them judges another
row: without the rounds that an extension was decided on, a bound is too low.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.overhead.interval import log_ratio
from pytest_glasshouse.overhead.verdict import LimitJudgement, Verdict, implausible_negative, judge_limit

if TYPE_CHECKING:
    from collections.abc import Mapping


def log_ratios(figures: Mapping[str, Any]) -> list[float]:
    """One log ratio per round, protected over raw."""
    return [log_ratio(each["protectedPerSec"], each["rawPerSec"]) for each in figures["roundFigures"]]


def first_rounds(row: Mapping[str, Any]) -> int | None:
    """The rounds that a row's extension was decided on, as `overhead.interval` wants them; None for a row without one."""
    extension = row.get("extension")
    return None if extension is None else int(extension["firstRounds"])


def implausible(row: Mapping[str, Any]) -> bool:
    """Whether a row lies below 0 by more than its margin, by its word or by its figures, whichever of them says so."""
    if row.get("verdict") == Verdict.IMPLAUSIBLE_NEGATIVE.value:
        return True
    found = implausible_negative(log_ratios(row), margin_pct=row["marginPct"], first_rounds=first_rounds(row))
    return found and not row["fixedOrder"]


def limit_of(row: Mapping[str, Any], limit_pct: float | None = None, *, audited: bool = True) -> LimitJudgement | None:
    """A measured row under `limit_pct`, by default the limit that its run was given; None where there is neither.

    None for a null row too, which has no overhead. An implausible negative is within no limit, but in a record that was written
    before that was so (`audited` False), which `check` alone asks for.
    """
    own = row.get("limit")
    wanted = own["limitPct"] if limit_pct is None and own else limit_pct
    if wanted is None or "roundFigures" not in row:
        return None
    return judge_limit(
        log_ratios(row),
        limit_pct=wanted,
        fixed_order=row["fixedOrder"],
        first_rounds=first_rounds(row),
        implausible=audited and implausible(row),
    )


def limit_json(judged: LimitJudgement | None) -> dict[str, Any] | None:
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
