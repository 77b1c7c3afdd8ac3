"""The timeline of a round on the guest's clock: when each phase of each leg began, and how many seconds it took."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.observation.reading import observed_rounds
from pytest_glasshouse.render.html import escaped
from pytest_glasshouse.render.svg import Scale, line, number, rectangle, svg, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.observation.document import Observation

_LEGS = ("protected", "raw", "raw2")
_WIDTH, _LEFT, _RIGHT, _BAR = 640, 72, 632, 18
#: The phase that ends with each event of a leg's timeline, and its colour class. Other events belong to the next phase.
_PHASES = {
    "challenge-wanted": ("start", "p0"),
    "evidence": ("attest", "p1"),
    "key_received": ("key release", "p2"),
    "package_verified": ("open", "p3"),
    "train_started": ("load", "p4"),
    "started": ("start and load", "p0"),
    "train_completed": ("prologue, warm-up, training", "p5"),
    "callback": ("prologue, warm-up, training, export", "p5"),
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


def timeline_plot(name: str, number_of_round: int, found: Sequence[Phase]) -> str:
    """The plot of one round."""
    title = f"Lifecycle of {name}, round {number_of_round}, in seconds from its beginning; the table has the figures"
    return svg(_parts(found), width=_WIDTH, height=34 + 26 * len(_present(found)), title=title)


def legend(found: Sequence[Phase]) -> str:
    """The phases' names with their colours, in order."""
    names = dict.fromkeys((each.name, each.css) for each in found)
    return "<p>" + " ".join(f'<span class="key {css}">{escaped(name)}</span>' for name, css in names) + "</p>"


def _parts(found: Sequence[Phase]) -> Iterator[str]:
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
