"""The timeline of a round on the guest's clock: when each phase of each leg began, and how many seconds it took.

Turns of an interleaved round are marked on their legs. What takes next to no time beside training (attestation, release, wiping)
is drawn again below, on a scale of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.observation.reading import observed_rounds
from pytest_glasshouse.observation.turns import read_borders, turns_of
from pytest_glasshouse.render.html import escaped
from pytest_glasshouse.render.svg import Scale, line, number, rectangle, svg, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.observation.document import Observation

_LEGS = ("protected", "raw", "raw2")
_WIDTH, _LEFT, _RIGHT, _BAR = 640, 72, 632, 18
#: A phase shorter than this share of its round cannot be seen beside the others.
_SHORT = 0.02
#: More turns than this are stripes that cannot be told apart.
_MOST_TURNS = 120
#: The phase that ends with each event of a leg's timeline, and its colour class. Other events belong to the next phase.
_PHASES = {
    "challenge-wanted": ("start", "p0"),
    "evidence": ("attest", "p1"),
    "key_received": ("key release", "p2"),
    "package_verified": ("open", "p3"),
    "train_started": ("load", "p4"),
    "started": ("start and load", "p9"),
    "train_completed": ("prologue, warm-up, training", "p5"),
    "callback": ("prologue, warm-up, training, export", "p10"),
    "adapter_exported": ("export", "p6"),
    "zeroized": ("zeroize", "p7"),
    "exit": ("exit", "p8"),
}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of one leg, in seconds from the first moment of its round."""

    leg: str
    name: str
    css: str
    begin_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.begin_s


@dataclass(frozen=True, kw_only=True)
class DrawnTurn:
    """One turn of a leg, in seconds from the first moment of its round."""

    leg: str
    begin_s: float
    end_s: float


def turns_played(observation: Observation, number_of_round: int) -> list[DrawnTurn]:
    """The turns of one round, as the agent signed their borders; none where the legs took no turns, or too many to be drawn."""
    observed = observed_rounds(observation)[number_of_round - 1]
    moments = [moment for leg in _LEGS for moment in _times(observed.get(leg)).values()]
    token = observed.get("borders")
    if not isinstance(token, str) or not moments:
        return []
    try:
        played = turns_of(read_borders(token))
    except (IntegrityError, ProtocolError, ValueError, KeyError, TypeError):
        return []  # the findings say what is wrong with them
    began, ended = min(moments), max(moments)
    # The clock of a guest that lies may be anything: what lies outside of the round is not drawn.
    inside = [each for each in played if began <= each.before.t_ns <= each.after.t_ns <= ended]
    if len(inside) > _MOST_TURNS:
        return []
    return [
        DrawnTurn(leg=each.role, begin_s=(each.before.t_ns - began) / 1e9, end_s=(each.after.t_ns - began) / 1e9)
        for each in inside
    ]


def phases(observation: Observation) -> list[tuple[int, list[Phase]]]:
    """Number and phases of every round whose legs have a timeline."""
    found: list[tuple[int, list[Phase]]] = []
    for place, observed in enumerate(observed_rounds(observation), start=1):
        times = {leg: _times(observed.get(leg)) for leg in _LEGS}
        moments = [moment for each in times.values() for moment in each.values()]
        if moments:
            began = min(moments)
            found.append((place, [phase for leg, each in times.items() for phase in _phases(leg, each, began)]))
    return found


def timeline_plot(name: str, number_of_round: int, found: Sequence[Phase], turns: Sequence[DrawnTurn] = ()) -> str:
    """The plot of one round."""
    title = f"Lifecycle of {name}, round {number_of_round}, in seconds from its beginning; the table has the figures"
    strips = [(leg, short) for leg in _present(found) if (short := _short(found, leg))]
    height = 34 + 26 * len(_present(found)) + (14 + 34 * len(strips) if strips else 0)
    return svg(
        [*_parts(found, turns), *_zoomed(strips, 34 + 26 * len(_present(found)))], width=_WIDTH, height=height, title=title
    )


def legend(found: Sequence[Phase]) -> str:
    """The phases' names with their colours, in order."""
    names = dict.fromkeys((each.name, each.css) for each in found)
    return "<p>" + " ".join(f'<span class="key {css}">{escaped(name)}</span>' for name, css in names) + "</p>"


def _short(found: Sequence[Phase], leg: str) -> list[Phase]:
    """The phases of a leg that vanish in the plot of the whole round."""
    whole = max((each.end_s for each in found), default=0.0)
    return [each for each in found if each.leg == leg and 0 < each.seconds < _SHORT * whole]


def _zoomed(strips: Sequence[tuple[str, list[Phase]]], top: float) -> Iterator[str]:
    """Each leg's short phases one after the other, as wide as they take long, all on one scale."""
    if not strips:
        return
    longest = max(sum(each.seconds for each in short) for _, short in strips)
    yield text(_LEFT, top + 10, "too short to be seen above, on a scale of its own, one after the other", anchor="start")
    for place, (leg, short) in enumerate(strips):
        x, y = float(_LEFT), top + 16 + 34 * place
        yield text(_LEFT - 6, y + 13, leg, anchor="end")
        for each in short:
            width = each.seconds / longest * (_RIGHT - _LEFT)
            yield rectangle(x, y, width, _BAR, each.css, f"{each.name}: {each.seconds:.4f} s")
            x += width
        total = sum(each.seconds for each in short)
        yield text(_LEFT, y + 29, f"{total * 1000:,.1f} ms in all", anchor="start")


def _parts(found: Sequence[Phase], turns: Sequence[DrawnTurn]) -> Iterator[str]:
    x = Scale(low=0.0, high=max(each.end_s for each in found) or 1.0, left=_LEFT, right=_RIGHT)
    legs = _present(found)
    axis = 10 + 26 * len(legs)
    for row, leg in enumerate(legs):
        top = 8 + row * (_BAR + 8)
        yield text(_LEFT - 6, top + 13, leg, anchor="end")
        for each in found:
            if each.leg == leg:
                title = f"{each.name}: {each.seconds:.3f} s"
                yield rectangle(x.at(each.begin_s), top, x.at(each.end_s) - x.at(each.begin_s), _BAR, each.css, title)
        for turn in turns:
            if turn.leg == leg:
                title = f"turn: {turn.end_s - turn.begin_s:.3f} s"
                width = x.at(turn.end_s) - x.at(turn.begin_s)
                yield rectangle(x.at(turn.begin_s), top + _BAR - 5, width, 5, f"turn {leg}", title)
    yield line(_LEFT, axis, _RIGHT, axis, "axis")
    for tick in x.ticks(6):
        yield line(x.at(tick), axis, x.at(tick), axis + 4, "axis")
        yield text(x.at(tick), axis + 17, f"{number(tick)} s")


def _present(found: Sequence[Phase]) -> list[str]:
    return [leg for leg in _LEGS if any(each.leg == leg for each in found)]


def _times(leg: Any) -> dict[str, int]:
    timeline = leg.get("timeline") if isinstance(leg, dict) else None
    if not isinstance(timeline, dict):
        return {}
    return {name: at for name, at in timeline.items() if isinstance(at, int) and (name in _PHASES or name == "spawned")}


def _phases(leg: str, times: Mapping[str, int], began: int) -> Iterator[Phase]:
    ordered = sorted(times.items(), key=lambda each: each[1])
    for (_, begin), (name, end) in pairwise(ordered):
        phase, css = _PHASES.get(name, (name, "p0"))
        yield Phase(leg=leg, name=phase, css=css, begin_s=(begin - began) / 1e9, end_s=(end - began) / 1e9)
