"""Plots over many reports: one row's overhead over time with its interval as a band, and a forest of each row's last figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.render.html import escaped
from pytest_glasshouse.render.svg import Scale, line, number, svg, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 170, 50, 632, 10, 140
_ROW, _NAMES = 22, 250
#: Longest name that fits before a forest's figures, also where a phone draws text larger.
_NAME = 24
#: A figure further from 0 is drawn at the edge: one wild row must not flatten the others.
_MOST_PCT = 100.0


@dataclass(frozen=True, kw_only=True)
class HistoryPoint:
    """One figure of a row in percent. `low` and `high` are its 95 % interval, None for a single sample; `failed` has none.

    `tags` are those by which the index's filters hide it in a forest, escaped.
    """

    label: str
    address: str
    pct: float | None
    low: float | None = None
    high: float | None = None
    failed: bool = False
    tags: str = ""


def over_time_plot(name: str, points: Sequence[HistoryPoint]) -> str:
    """Figures in their order, oldest first, evenly spaced; a row that failed is a red cross at the bottom."""
    values = [_cut(each) for point in points for each in (point.pct, point.low, point.high) if each is not None]
    low, high = min([0.0, *values]), max([0.0, *values])
    pad = 0.1 * (high - low or 10.0)  # a row without a figure has a scale, too
    y = Scale(low=low - pad, high=high + pad, left=_BOTTOM, right=_TOP)
    x = Scale(low=-0.5, high=max(len(points) - 0.5, 0.5), left=_LEFT, right=_RIGHT)
    title = f"Overhead of {name} over {len(points)} reports, in percent; the table has the figures"
    return svg(_over_time(points, x, y), width=_WIDTH, height=_HEIGHT, title=title)


def forest_plot(points: Sequence[HistoryPoint]) -> str:
    """Each row's last figure on one scale."""
    values = [abs(_cut(each)) for point in points for each in (point.pct, point.low, point.high) if each is not None]
    reach = max([1.0, *values]) * 1.1
    x = Scale(low=-reach, high=reach, left=_NAMES + 10, right=_RIGHT)
    height = _ROW * len(points) + 30
    title = f"Last overhead of {len(points)} rows, in percent"
    return svg(_forest(points, x, height), width=_WIDTH, height=height, title=title, role="group")


def _over_time(points: Sequence[HistoryPoint], x: Scale, y: Scale) -> Iterator[str]:
    for tick in y.ticks(4):
        yield line(_LEFT, y.at(tick), _RIGHT, y.at(tick), "zero" if tick == 0 else "grid")
        yield text(_LEFT - 6, y.at(tick) + 4, f"{number(tick, sign=True)} %", anchor="end")
    banded = [
        (place, point.low, point.high) for place, point in enumerate(points) if point.low is not None and point.high is not None
    ]
    if len(banded) > 1:
        upper = [f"{x.at(place):g},{y.at(_cut(high)):g}" for place, _, high in banded]
        lower = [f"{x.at(place):g},{y.at(_cut(low)):g}" for place, low, _ in reversed(banded)]
        yield f'<polygon points="{" ".join([*upper, *lower])}" class="band"/>'
    for place, point in enumerate(points):
        at = x.at(place)
        if point.low is not None and point.high is not None:
            yield line(at, y.at(_cut(point.low)), at, y.at(_cut(point.high)), "interval")
        if point.failed:
            cross = f"M{at - 4:g} {_BOTTOM - 4}l8 8m0 -8l-8 8"
            yield f'<path d="{cross}" class="failed"><title>{escaped(point.label)}: failed</title></path>'
        elif point.pct is not None:
            kind = "point" if point.low is not None else "point alone"
            middle, title = y.at(_cut(point.pct)), f"<title>{escaped(point.label)}</title>"
            yield f'<circle cx="{at:g}" cy="{middle:g}" r="3.5" class="{kind}">{title}</circle>'
    if points:
        yield text(_LEFT, _BOTTOM + 18, points[0].label.partition("T")[0], anchor="start")
        yield text(_RIGHT, _BOTTOM + 18, points[-1].label.partition("T")[0], anchor="end")


def _forest(points: Sequence[HistoryPoint], x: Scale, height: int) -> Iterator[str]:
    yield line(x.at(0), 2, x.at(0), height - 24, "zero")
    for place, point in enumerate(points):
        # A group that a filter hides leaves no gap: the script moves the others up by as many rows.
        yield f'<g data-tags="{point.tags}" data-row="{_ROW}" transform="translate(0 {_ROW * place})">'
        yield from _forest_row(point, x)
        yield "</g>"
    for tick in x.ticks(5):
        yield text(x.at(tick), height - 6, f"{number(tick, sign=True)} %")


def _forest_row(point: HistoryPoint, x: Scale) -> Iterator[str]:
    middle = 12
    name = point.label if len(point.label) <= _NAME else point.label[: _NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
    yield f'<a href="{escaped(point.address)}">{text(_NAMES, middle + 4, name, anchor="end")}</a>'
    if point.low is not None and point.high is not None:
        yield line(x.at(_cut(point.low)), middle, x.at(_cut(point.high)), middle, "interval")
    if point.failed:
        yield f'<path d="M{x.at(0) - 5:g} {middle - 5}l10 10m0 -10l-10 10" class="failed"/>'
    elif point.pct is not None:
        kind = "point" if point.low is not None else "point alone"
        yield f'<circle cx="{x.at(_cut(point.pct)):g}" cy="{middle}" r="4" class="{kind}"/>'


def _cut(value: float) -> float:
    return min(max(value, -_MOST_PCT), _MOST_PCT)
