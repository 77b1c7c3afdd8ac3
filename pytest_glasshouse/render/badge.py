"""The badge: the upper bound of a report's overhead as a small SVG. Never a point estimate; grey where there is no bound.

A row's bound, and whether it is within a limit, comes from `limit_of`, as for the gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.row_limits import implausible, limit_of
from pytest_glasshouse.overhead.verdict import LimitVerdict, Verdict
from pytest_glasshouse.report.document import counts_for_gate
from pytest_glasshouse.wire.printable import counted

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import MeasuredRow, SealedRow
    from pytest_glasshouse.report.fields import Report

LABEL = "protection overhead"
_GREY, _RED, _GREEN, _BLUE = "#6a737d", "#b3261e", "#1a7f37", "#0a5ea8"
_CHARACTER_PX, _PADDING_PX = 6.6, 10


@dataclass(frozen=True, kw_only=True)
class Badge:
    """Text and colour of a badge."""

    message: str
    colour: str


#: What is shown where there is no report.
GREY_BADGE = Badge(message="not measured", colour=_GREY)


def badge(document: Report, *, sound: bool, max_overhead_pct: float | None = None) -> Badge:
    """The badge of a report: its worst row decides. `sound` is whether `check` found no fault.

    A row whose base is sealed has no overhead: the badge shows that of the others, or that there is none.
    """
    if (without := _without_bound(document, sound=sound)) is not None:
        return without
    rows = document["rows"]
    judged = [limit_of(row, max_overhead_pct, null_rows=document["nullRows"]) for row in rows]
    bounded = [each or limit_of(row, math.inf) for row, each in zip(rows, judged, strict=True)]
    bounds = [each.upper95_pct for each in bounded if each is not None and each.upper95_pct is not None]
    if len(bounds) < len(rows) or any(row["fixedOrder"] for row in rows):
        return Badge(message="no bound yet", colour=_GREY)
    message = f"at most {max(bounds):.2f} %"
    verdicts = {each.verdict for each in bounded if each is not None}
    if verdicts == {LimitVerdict.WITHIN}:
        return Badge(message=message, colour=_BLUE if None in judged else _GREEN)
    worst = LimitVerdict.OVER if LimitVerdict.OVER in verdicts else LimitVerdict.INCONCLUSIVE
    return Badge(message=f"{message} ({worst.value})", colour=_RED if worst is LimitVerdict.OVER else _GREY)


def _without_bound(document: Report, *, sound: bool) -> Badge | None:
    """The badge where no figure may be shown; None where the rows' bounds decide."""
    rows, excluded = document["rows"], document["excludedResults"]
    sealed = document.get("sealedRows", [])
    every: list[MeasuredRow | SealedRow] = [*rows, *sealed]
    retried = sum("attempts" in row for row in every)
    cases = (
        (not sound, "report faulty", _RED),
        (bool(excluded), f"{counted(len(excluded), 'row')} not measured", _RED),
        (not every, "not measured", _GREY),
        (retried > 0, f"{counted(retried, 'row')} needed another attempt", _RED),
        (not all(counts_for_gate(row) for row in every), "dry run", _GREY),
        (not rows, "none: base sealed", _GREY),
        (any(implausible(row, document["nullRows"]) for row in rows), Verdict.IMPLAUSIBLE_NEGATIVE.value, _RED),
    )
    return next((Badge(message=message, colour=colour) for applies, message, colour in cases if applies), None)


def svg(shown: Badge) -> str:
    """The badge as a standalone SVG without external font, script or address."""
    left, right = (round(len(text) * _CHARACTER_PX + 2 * _PADDING_PX) for text in (LABEL, shown.message))
    title = escape(f"{LABEL}: {shown.message}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img" aria-label="{title}">'
        f"<title>{title}</title>"
        f'<rect width="{left}" height="20" fill="#24292f"/><rect x="{left}" width="{right}" height="20" fill="{shown.colour}"/>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">'
        f'<text x="{left / 2:g}" y="14">{escape(LABEL)}</text>'
        f'<text x="{left + right / 2:g}" y="14">{escape(shown.message)}</text></g></svg>\n'
    )
