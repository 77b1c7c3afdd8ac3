"""The plot of throughput over time: by segment where a row has segments, else by the progress lines of each leg.

Of sequential legs only the protected one has progress lines, in its journal; the raw leg is drawn as its average, dashed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.observation.reading import journal_lines, observed_rounds
from pytest_glasshouse.render.svg import Scale, line, number, rectangle, svg, text
from pytest_glasshouse.wire.canonical import parse_object

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.analysis.fields import MeasuredRow
    from pytest_glasshouse.observation.document import RoundNotes

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 190, 56, 632, 12, 150
_MARK = 3.5
#: Above this many marks they cannot be told apart; whole rounds are then drawn by their averages.
_MOST_MARKS = 1500
#: A stretch shorter than this share of the usual one is joined with its neighbour.
_SLIVER = 0.25


@dataclass(frozen=True, kw_only=True)
class RateSpan:
    """A leg at one rate: its place on the time axis (seconds), units per second, and whether it is only an average."""

    leg: str
    begin_s: float
    end_s: float
    rate: float
    average: bool


def rate_spans(row: MeasuredRow) -> list[RateSpan]:
    """Every span of a row in order of time, one round after the other."""
    found: list[RateSpan] = []
    clock = 0.0
    segments = row.get("segments") or []
    if 0 < len(segments) <= _MOST_MARKS:
        for each in sorted(segments, key=lambda each: (each["round"], each["pair"], each["position"])):
            begin, clock = clock, clock + each["elapsedSec"]
            if each["elapsedSec"] > 0:
                rate = each["units"] / each["elapsedSec"]
                found.append(RateSpan(leg=each["leg"], begin_s=begin, end_s=clock, rate=rate, average=False))
        return found
    observed = observed_rounds(row["observation"])
    for place, figures in enumerate(row["roundFigures"]):
        for leg in figures["order"]:
            progress = _progress(observed[place]) if leg == "protected" and place < len(observed) and not segments else []
            elapsed_s, rate = (
                (figures["protectedElapsedSec"], figures["protectedPerSec"])
                if leg == "protected"
                else (figures["rawElapsedSec"], figures["rawPerSec"])
            )
            begin, clock = clock, clock + elapsed_s
            average = RateSpan(leg=leg, begin_s=begin, end_s=clock, rate=rate, average=True)
            found += list(_spans_between(begin, progress)) or [average]
    return found


def rate_plot(row: MeasuredRow) -> str:
    """The plot of one row; empty where nothing was timed."""
    found = rate_spans(row)
    if not found:
        return ""
    top = max(each.rate for each in found)
    low = min(each.rate for each in found)
    floor = max(0.0, low - 0.5 * (top - low) - 0.02 * top)
    x = Scale(low=0.0, high=max(each.end_s for each in found), left=_LEFT, right=_RIGHT)
    y = Scale(low=floor, high=top + 0.1 * (top - floor), left=_BOTTOM, right=_TOP)
    title = f"{row['unit']} per second over measured time of {row['name']}, {number(round(low, 2))} to {number(round(top, 2))}"
    return svg(_parts(row, found, x, y), width=_WIDTH, height=_HEIGHT, title=title)


def _parts(row: MeasuredRow, found: list[RateSpan], x: Scale, y: Scale) -> Iterator[str]:
    for tick in y.ticks(4):
        yield line(_LEFT, y.at(tick), _RIGHT, y.at(tick), "grid")
        yield text(_LEFT - 6, y.at(tick) + 4, number(tick), anchor="end")
    for tick in x.ticks(6):
        yield line(x.at(tick), _BOTTOM, x.at(tick), _BOTTOM + 4, "axis")
        yield text(x.at(tick), _BOTTOM + 17, number(tick))
    yield line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, "axis")
    yield text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, f"measured seconds, rounds one after the other; {row['unit']}/s upwards")
    for border in _round_borders(row):
        yield line(x.at(border), _TOP, x.at(border), _BOTTOM, "round")
    for each in found:
        css = f"{each.leg}{' average' if each.average else ''}"
        height, middle = y.at(each.rate), x.at((each.begin_s + each.end_s) / 2)
        yield line(x.at(each.begin_s), height, x.at(each.end_s), height, css)
        if each.leg == "protected":
            yield f'<circle cx="{middle:g}" cy="{height:g}" r="{_MARK}" class="{each.leg}"/>'
        else:
            yield rectangle(middle - _MARK, height - _MARK, 2 * _MARK, 2 * _MARK, each.leg)


def _round_borders(row: MeasuredRow) -> list[float]:
    """Where one round of a row whose legs run in turn ends and the next one begins, in measured seconds."""
    if row.get("segments"):
        return []
    lengths = [figures["protectedElapsedSec"] + figures["rawElapsedSec"] for figures in row["roundFigures"]]
    return list(accumulate(lengths))[:-1]


def _progress(observed: RoundNotes) -> list[tuple[float, int]]:
    """Seconds and units of every progress line of the protected leg, and of its end."""
    found = []
    for journal_line in journal_lines(observed):
        try:
            entry: Any = parse_object(journal_line)
            if entry["type"] in {"train_progress", "train_completed"}:
                found.append((entry["body"]["elapsed_ns"] / 1e9, int(entry["body"]["units"])))
        except (IntegrityError, ValueError, KeyError, TypeError, OverflowError):
            return []
    return found


def _spans_between(begin_s: float, progress: list[tuple[float, int]]) -> Iterator[RateSpan]:
    before_s, before = 0.0, 0
    for seconds, units in _without_slivers(progress):
        if seconds > before_s and units >= before:
            rate = (units - before) / (seconds - before_s)
            yield RateSpan(leg="protected", begin_s=begin_s + before_s, end_s=begin_s + seconds, rate=rate, average=False)
        before_s, before = seconds, units


def _without_slivers(progress: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """Progress without stretches too short to have a rate, each joined with its neighbour.

    A leg's last line comes right after its last progress line, often with no unit in between: that is no rate of 0. A stretch of
    the usual length without a unit stays, because there the leg did stand still.
    """
    gaps = sorted(after - before for before, after in pairwise([0.0, *(seconds for seconds, _ in progress)]))
    if not gaps:
        return []
    shortest_s = _SLIVER * gaps[len(gaps) // 2]
    kept = [(0.0, 0)]
    for seconds, units in progress:
        if seconds - kept[-1][0] >= shortest_s:
            kept.append((seconds, units))
        elif len(kept) > 1:
            kept[-1] = (seconds, units)
    return kept[1:]
