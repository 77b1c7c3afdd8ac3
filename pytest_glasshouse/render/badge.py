"""A badge: the upper bound of a report's overhead as a small SVG. Never a point estimate, and grey where there is no bound.

This module knows colours and words. What a row's bound is, and whether it is under a limit, is `limit_of`'s, as for the gate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.analysis.row_limits import implausible, limit_of
from pytest_glasshouse.overhead.verdict import LimitVerdict, Verdict
from pytest_glasshouse.report.document import counts

if TYPE_CHECKING:
    from collections.abc import Mapping

LABEL = "protection overhead"
_GREY, _RED, _GREEN, _BLUE = "#6a737d", "#b3261e", "#1a7f37", "#0a5ea8"
_CHARACTER_PX, _PADDING_PX = 6.6, 10


@dataclass(frozen=True, kw_only=True)
class Badge:
    """What a badge says and in which colour."""

    message: str
    colour: str


def badge(document: Mapping[str, Any], *, sound: bool, max_overhead_pct: float | None = None) -> Badge:
    """The badge of a report: its worst row decides. `sound` is whether `check` found no fault."""
    without = _without_bound(document, sound=sound)
    if without is not None:
        return without
    rows = document["rows"]
    judged = [limit_of(row, max_overhead_pct) for row in rows]
    bounded = [each or limit_of(row, math.inf) for row, each in zip(rows, judged, strict=True)]
    bounds = [each.upper95_pct for each in bounded if each is not None and each.upper95_pct is not None]
    if len(bounds) < len(rows) or any(row["fixedOrder"] for row in rows):
        return Badge(message="no bound yet", colour=_GREY)
    message = f"at most {max(bounds):.2f} %"
    words = {each.verdict for each in bounded if each is not None}
    if words == {LimitVerdict.WITHIN}:
        return Badge(message=message, colour=_BLUE if None in judged else _GREEN)
    word = LimitVerdict.OVER if LimitVerdict.OVER in words else LimitVerdict.INCONCLUSIVE
    return Badge(message=f"{message} ({word.value})", colour=_RED if word is LimitVerdict.OVER else _GREY)


def _without_bound(document: Mapping[str, Any], *, sound: bool) -> Badge | None:
    """What is said where no figure may be shown; None where the rows' bounds decide."""
    rows, excluded = document["rows"], document["excludedResults"]
    again = sum("attempts" in row for row in rows)
    cases = (
        (not sound, "report faulty", _RED),
        (bool(excluded), f"{len(excluded)} row(s) not measured", _RED),
        (not rows, "not measured", _GREY),
        (again > 0, f"{again} row(s) needed another attempt", _RED),
        (not all(counts(row) for row in rows), "dry run", _GREY),
        (any(implausible(row) for row in rows), Verdict.IMPLAUSIBLE_NEGATIVE.value, _RED),
    )
    return next((Badge(message=message, colour=colour) for true, message, colour in cases if true), None)


def svg(shown: Badge) -> str:
    """The badge as a standalone SVG: no font, script or address from anywhere."""
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
