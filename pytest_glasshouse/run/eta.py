"""Estimates for the live line: how long a row will still take, and how wide its interval is so far.

They follow from progress events alone. The interval's width is shown and never its position: who sees the position while a row
runs may stop it where they like it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_glasshouse.run.engine import Event

_LEGS = ("protected", "raw")
#: What stands for a leg while the base model is brought to the guest.
_MODEL = "model"
#: The name of legs that take turns, together.
_TURNS = "both"
_ROUNDS_FOR_A_WIDTH = 2
#: The phase of the event that comes after each round.
ROUND_OVER = "interval"


@dataclass(kw_only=True)
class _Row:
    row_id: str
    #: When each round, and each leg, first had an event: monotonic seconds.
    began: dict[int, float] = field(default_factory=dict)
    legs: dict[tuple[int, str], float] = field(default_factory=dict)
    #: When a leg first reported how much of its training is done, and how much that was. Its rate is counted from there.
    trains: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    #: How long a round took, for those that are over.
    took_s: dict[int, float] = field(default_factory=dict)
    rates: dict[tuple[int, str], float] = field(default_factory=dict)
    now: tuple[int, str] | None = None
    half_width_pct: float | None = None


@dataclass(frozen=True, kw_only=True)
class Eta:
    """Seconds until the row is done, and half the width of its 95 % interval in points; None where nothing is known."""

    eta_s: float | None
    half_width_pct: float | None


class Etas:
    """One estimate per worker."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def see(self, event: Event, *, at: float, worker: str = "") -> Eta:
        """Take in a progress event, received `at` (monotonic seconds); the estimate now."""
        row_id = str(event.get("row_id", ""))
        row = self._rows.get(worker)
        if row is None or row.row_id != row_id:
            row = self._rows[worker] = _Row(row_id=row_id)
        leg = (int(event.get("round") or 1) if str(event.get("round") or "1").isdigit() else 1, str(event.get("leg") or ""))
        if leg != row.now and leg[1] in _LEGS:
            row.now = leg
            self._measure(row)
        if leg[1] in _LEGS and event.get("rate") is not None:
            row.rates[leg] = float(event["rate"])
        width = event.get("half_width_pct")
        return Eta(eta_s=_eta(row, event, leg, at), half_width_pct=row.half_width_pct if width is None else float(width))

    def _measure(self, row: _Row) -> None:
        """Between two legs, while nothing is timed: importing scipy would disturb a measurement on this machine."""
        whole = [
            number
            for number in {number for number, _ in row.rates}
            if all((number, leg) in row.rates and (number, leg) != row.now for leg in _LEGS)
        ]
        if len(whole) < _ROUNDS_FOR_A_WIDTH:
            return
        from pytest_glasshouse.overhead.interval import interval_pct, log_ratio

        ratios = [log_ratio(row.rates[number, "protected"], row.rates[number, "raw"]) for number in whole]
        interval = interval_pct(ratios, level=0.95)
        row.half_width_pct = None if interval is None else interval.half_width


def _eta(row: _Row, event: Event, leg: tuple[int, str], at: float) -> float | None:
    """Until the row's end: the rest of this round, and the rounds to come as long as those that are over, or as this one.

    While the model is on its way, only until it is there: nothing is known of the rounds yet.
    """
    if leg[1] == _MODEL:
        phase = (0, str(event.get("phase")))
        if event.get("fraction") is not None:
            row.trains.setdefault(phase, (at, float(event["fraction"])))
        return _training(row, event, phase, at)
    number, to_come = leg[0], max(int(event.get("rounds") or 1) - leg[0], 0)
    _tick(row, event, leg, at)
    if number in row.took_s:
        rest, this = 0.0, row.took_s[number]
    else:
        spent = at - row.began[number]
        usual = _mean(row.took_s.values())
        guess = None if usual is None else usual - spent
        rest_or_none = guess if guess is not None and guess > 0 else _rest(row, event, leg, at)
        if rest_or_none is None:
            return None
        rest, this = rest_or_none, spent + rest_or_none
    return rest + to_come * (_mean(row.took_s.values()) or this)


def _tick(row: _Row, event: Event, leg: tuple[int, str], at: float) -> None:
    """Note what begins and ends with this event."""
    if leg[0] not in row.began:
        if row.began:
            row.took_s.setdefault(max(row.began), at - row.began[max(row.began)])
        row.began[leg[0]] = at
    if event.get("phase") == ROUND_OVER:
        row.took_s.setdefault(leg[0], at - row.began[leg[0]])
    row.legs.setdefault(leg, at)
    if event.get("fraction") is not None:
        row.trains.setdefault(leg, (at, float(event["fraction"])))


def _rest(row: _Row, event: Event, leg: tuple[int, str], at: float) -> float | None:
    """The rest of a row's first round: what trains at its rate so far, and a second leg as long as the first."""
    rest = _training(row, event, leg, at)
    if leg[1] not in _LEGS or (leg[0], _TURNS) in row.legs or event.get("legs") == 1:
        return rest
    other = (leg[0], next(each for each in _LEGS if each != leg[1]))
    spent = at - row.legs[leg]
    if other not in row.legs:
        return None if rest is None else 2 * rest + spent
    if other not in row.trains:
        return None
    left = max(row.legs[leg] - row.legs[other] - spent, 0.0)
    return left if rest is None or event.get("fraction") is None else rest


def _training(row: _Row, event: Event, leg: tuple[int, str], at: float) -> float | None:
    """The rest of the training; 0 once it was reported and is not reported any more."""
    turns = (leg[0], _TURNS)
    if event.get("fraction") is None:
        return 0.0 if leg in row.trains or turns in row.trains else None
    since, done = row.trains[leg]
    fraction = float(event["fraction"])
    return (at - since) * (1 - fraction) / (fraction - done) if fraction > done else None


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return sum(known) / len(known) if known else None


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
