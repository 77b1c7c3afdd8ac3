"""The sentences of a report about a figure.

Every claim comes from a verdict. No sentence says that protection helps: a figure below zero is printed with its interval, or
as a single sample, and its sentence names order, warm state and noise as causes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow
    from pytest_glasshouse.overhead.interval import Interval
    from pytest_glasshouse.overhead.verdict import Judgement


def interpretation(judged: Judgement, *, overhead_pct: float, ci95: Interval | None, order: str) -> str:
    """One sentence for one row; `overhead_pct` is never shown without its interval or the words `single sample`."""
    shown = figure_with_interval(overhead_pct, None if ci95 is None else (ci95.low, ci95.high))
    sentence = f"{shown}, {order}: {judged.verdict.value} ({judged.reason})"
    if judged.more_rounds is not None:
        sentence += f"; about {judged.more_rounds} more rounds may decide"
    if overhead_pct < 0 and judged.verdict is not Verdict.IMPLAUSIBLE_NEGATIVE:
        sentence += "; a value below zero reflects order, warm state and noise"
    return sentence


def figure_with_interval(overhead_pct: float, ci95: tuple[float, float] | None) -> str:
    """The figure as it may be shown: with its 95 % interval, or as a single sample."""
    if ci95 is None:
        return f"{signed(overhead_pct)} % (single sample)"
    return f"{signed(overhead_pct)} % (95 % interval {signed(ci95[0])} to {signed(ci95[1])})"


def printed_pct(row: MeasuredRow) -> float:
    """The figure of a measured row that is printed with its interval: the mean over rounds, which the interval is of."""
    return row["roundsMeanPct"]


def verdict_text(row: MeasuredRow) -> str:
    """A row's verdict as it is printed: one that depends on the margin alone names it."""
    text = row["verdict"]
    return text.replace("margin", f"margin of {row['marginPct']:g} %") if text.endswith("within margin") else text


def worst_round_text(row: MeasuredRow) -> str:
    """The worst round and how many are slow; empty for one round, and for a row from before this was said."""
    worst = row.get("worstRound")
    if worst is None or worst["rounds"] == 1:
        return ""
    slow = f"{worst['slow']} of {worst['rounds']} more than {row['marginPct']:g} % above their median"
    return f"worst round {signed(worst['overheadPct'])} % (round {worst['round']}; {slow})"


def rate_with_interval(per_s: float, ci95: Sequence[float] | None, unit: str) -> str:
    """A rate as it may be shown: with its 95 % interval over rounds, or as a single sample."""
    if ci95 is None:
        return f"{per_s:,.3f} {unit}/s (single sample)"
    return f"{per_s:,.3f} {unit}/s (95 % interval {ci95[0]:,.3f} to {ci95[1]:,.3f})"


def signed(value: float) -> str:
    """Two decimals with a sign, and no minus before a zero."""
    text = f"{value:+.2f}"
    return "0.00" if text in {"+0.00", "-0.00"} else text
