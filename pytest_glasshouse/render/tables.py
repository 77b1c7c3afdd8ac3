"""Tables of what stands beside a row's overhead: how sure it is, and what protection costs outside the loop.

Cells are texts; whoever prints them escapes them. Every figure comes with its interval, or with the words that there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.analysis.wording import signed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Row = Mapping[str, Any]

SURE_HEAD = (
    "Row",
    "Companion",
    "Null (90 %)",
    "Detects",
    "Spread of rounds",
    "of pairs",
    "of starts",
    "Order",
    "Position",
    "Pairs",
)
COST_HEAD = ("Row", "Attest", "Release", "Open", "Load", "Raw load", "Zeroize", "Total for 1 h", "8 h", "24 h", "168 h")
USE_HEAD = ("Row", "Peak memory protected", "raw", "Plaintext exposed", "at most")
_PHASES = (
    ("protected", "attest"), ("protected", "release"), ("protected", "open"), ("protected", "load"), ("raw", "load"),
    ("protected", "zeroize"),
)  # fmt: skip
_NONE = "not seen"


def sure(rows: Sequence[Row]) -> list[list[str]]:
    """One line for each row that has estimates."""
    return [_sure(row["name"], row["estimates"]) for row in rows if "estimates" in row]


def costs(rows: Sequence[Row]) -> list[list[str]]:
    """One line for each row that has fixed costs: seconds a round, then the total cost in percent of the raw job."""
    return [_costs(row) for row in rows if "fixedCosts" in row]


def uses(rows: Sequence[Row]) -> list[list[str]]:
    """Memory and exposure of each row."""
    return [
        [
            row["name"],
            _bytes(row["protectedPeakMemory"]["bytes"]),
            _bytes(row["rawPeakMemory"]["bytes"]),
            _NONE if "exposureByteSec" not in row else f"{_bytes(row['exposureByteSec'])} s",
            _bytes(row.get("exposurePeakBytes")),
        ]
        for row in rows
    ]


def _sure(name: str, given: Mapping[str, Any]) -> list[str]:
    nulls = ", ".join(f"{each['kind']} {_span(each['ci90Pct'])}" for each in given["nulls"])
    spreads = [_NONE if given[key] is None else f"{given[key]:.2f} %" for key in _SPREADS]
    detects = _NONE if given["minimumDetectablePct"] is None else f"{given['minimumDetectablePct']:.2f} %"
    effects = [_NONE if given[key] is None else f"{signed(given[key]['pct'])} {_span(given[key]['ci95Pct'])}" for key in _EFFECTS]
    companion = f"{signed(given['trimmedPct'])} % {_span(given['trimmedCi95Pct'])}"
    pairs = f"{given['pairs']}, worth {given['effectivePairs']:.0f}"
    return [name, companion, nulls or "none", detects, *spreads, *effects, pairs]


_SPREADS = ("betweenRoundsPct", "withinRoundsPct", "processStartPct")
_EFFECTS = ("orderEffect", "positionEffect")


def _costs(row: Row) -> list[str]:
    told = {(each["leg"], each["phase"]): each for each in row["fixedCosts"]}
    cells = [row["name"]]
    for key in _PHASES:
        each = told.get(key)
        cells.append(_NONE if each is None else f"{each['meanSec']:.3f} s {_seconds(each['ci95Sec'])}")
    jobs = {each["hours"]: each for each in row["totalCost"]}
    return [*cells, *(_job(jobs[hours]) if hours in jobs else _NONE for hours in (1, 8, 24, 168))]


def _job(each: Mapping[str, Any]) -> str:
    text = f"{signed(each['pct'])} % {_span(each['ci95Pct'])}"
    return text if each["usd"] is None else f"{text}, USD {signed(each['usd'])}"


def _span(pair: Sequence[float] | None) -> str:
    return "(single sample)" if pair is None else f"({signed(pair[0])} to {signed(pair[1])})"


def _seconds(pair: Sequence[float] | None) -> str:
    return "(single sample)" if pair is None else f"({pair[0]:.3f} to {pair[1]:.3f})"


def _bytes(count: float | None) -> str:
    if count is None:
        return _NONE
    size, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":  # noqa: PLR2004
            break
        size /= 1024
    return f"{size:.1f} {unit}" if unit != "B" else f"{size:.0f} B"
