"""The plot of a row's overhead and its interval against zero, margin and null band, all rows on one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.wording import printed_pct
from pytest_glasshouse.render.svg import Scale, line, number, rectangle, round_step, svg, text
from pytest_glasshouse.render.tables import overhead_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow
    from pytest_glasshouse.report.fields import Report

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _MIDDLE = 320, 66, 8, 312, 16
#: The lane of raw against raw, below that of the overhead.
_NULL_LANE = 36
#: The limit of a scale: an interval that goes beyond it ends in an arrow.
_WIDEST_PCT = 100.0


def common_scale(rows: Sequence[MeasuredRow]) -> Scale:
    """One symmetric scale for all rows, sized by the median one: an outlier must not flatten all others."""
    reaches = sorted(max(map(abs, row["overheadCi95Pct"] or [printed_pct(row)])) for row in rows)
    wanted = max(1.25 * reaches[len(reaches) // 2], 2 * max(row["marginPct"] for row in rows))
    step = round_step(min(wanted, _WIDEST_PCT) / 2)
    return Scale(low=-2 * step, high=2 * step, left=_LEFT, right=_RIGHT)


def null_band(document: Report, row: MeasuredRow) -> tuple[float, float] | None:
    """The 90 % interval of raw against raw between processes: of the row's allocation, or of its own second raw leg.

    Halves of one raw process say nothing about another, so they are no band.
    """
    nulls = row["estimates"]["nulls"] if "estimates" in row else []
    found = row["allocationNull"]["ci90Pct"] if "allocationNull" in row else None
    if found is None:
        found = next((each["ci90Pct"] for each in nulls if each["kind"] == "second raw leg"), None)
    if found is None:
        same = (each for each in document["nullRows"] if each["allocationName"] == row["allocationName"])
        found = next((each["differenceCi90Pct"] for each in same if each["workload"] == row["workload"]), None)
    return (found[0], found[1]) if found else None


def interval_plot(row: MeasuredRow, scale: Scale, band: tuple[float, float] | None) -> str:
    """The plot of one row."""
    null = "" if band is None else f"; raw against raw {number(round(band[0], 2))} to {number(round(band[1], 2))} %"
    return svg(
        _parts(row, scale, band), width=_WIDTH, height=_HEIGHT, title=f"Overhead of {row['name']}: {overhead_text(row)}{null}"
    )


def _parts(row: MeasuredRow, scale: Scale, band: tuple[float, float] | None) -> Iterator[str]:
    margin = row["marginPct"]
    yield rectangle(
        scale.at(-margin), 4, scale.at(margin) - scale.at(-margin), 42, "margin", f"margin: plus or minus {margin:g} %"
    )
    if band is not None:
        low, high = scale.at(band[0]), scale.at(band[1])
        yield rectangle(low, _NULL_LANE - 4, high - low, 8, "null", "raw against raw, 90 % interval")
    yield line(scale.at(0), 2, scale.at(0), 48, "zero")
    interval = row["overheadCi95Pct"]
    if interval is not None:
        low, high = scale.at(interval[0]), scale.at(interval[1])
        yield line(low, _MIDDLE, high, _MIDDLE, "interval")
        yield from (_end(value, scale) for value in interval)
    if scale.low <= printed_pct(row) <= scale.high:
        kind = "point" if interval is not None else "point alone"
        yield f'<circle cx="{scale.at(printed_pct(row)):g}" cy="{_MIDDLE}" r="4.5" class="{kind}"/>'
    elif interval is None:
        yield _end(printed_pct(row), scale)
    for tick in scale.ticks(4):
        anchor = "start" if tick == scale.low else "end" if tick == scale.high else "middle"
        yield line(scale.at(tick), 48, scale.at(tick), 51, "axis")
        yield text(scale.at(tick), 62, f"{number(tick, sign=True)} %", anchor=anchor)


def _end(value: float, scale: Scale) -> str:
    x = scale.at(value)
    if scale.low <= value <= scale.high:
        return line(x, _MIDDLE - 5, x, _MIDDLE + 5, "interval")
    back = 7 if value < scale.low else -7
    return f'<path d="M{x + back:g} {_MIDDLE - 5}L{x:g} {_MIDDLE}L{x + back:g} {_MIDDLE + 5}" class="interval open"/>'
