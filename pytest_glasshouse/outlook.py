"""What the live line says beyond the moment: how long a row will take yet, and how wide its interval is by now.

It learns from progress events alone. The interval's width is shown and never where it lies: who sees that while a row runs
may stop it where it pleases him.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEGS = ("protected", "raw")
_ROUNDS_FOR_A_WIDTH = 2


@dataclass(kw_only=True)
class _Row:
    row_id: str
    took_s: dict[tuple[int, str], float] = field(default_factory=dict)
    rates: dict[tuple[int, str], float] = field(default_factory=dict)
    now: tuple[int, str] | None = None
    half_width_pct: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """Seconds until the row is done, and half the width of its 95 % interval in points; None where nothing is known."""

    eta_s: float | None
    half_width_pct: float | None


class Outlooks:
    """One outlook per worker."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    def see(self, event: Mapping[str, Any], *, worker: str = "") -> Outlook:
        """Take a progress event in and say what is to be expected now."""
        row_id = str(event.get("row_id", ""))
        row = self._rows.get(worker)
        if row is None or row.row_id != row_id:
            row = self._rows[worker] = _Row(row_id=row_id)
        leg = (int(event.get("round") or 1) if str(event.get("round") or "1").isdigit() else 1, str(event.get("leg") or ""))
        if leg != row.now and leg[1] in _LEGS:
            row.now = leg
            self._measure(row)
        if leg[1] in _LEGS:
            row.took_s[leg] = float(event.get("elapsed_s") or 0.0)
            if event.get("rate") is not None:
                row.rates[leg] = float(event["rate"])
        told = event.get("half_width_pct")
        return Outlook(eta_s=_eta(row, event, leg), half_width_pct=row.half_width_pct if told is None else float(told))

    def _measure(self, row: _Row) -> None:
        """Between two legs, when nothing is being timed: scipy is no neighbour for a measurement on this machine."""
        whole = [
            number
            for number in {number for number, _ in row.rates}
            if all((number, leg) in row.rates and (number, leg) != row.now for leg in _LEGS)
        ]
        if len(whole) < _ROUNDS_FOR_A_WIDTH:
            return
        from pytest_glasshouse.overhead.interval import interval_pct
        from pytest_glasshouse.overhead.rates import log_ratio

        ratios = [log_ratio(row.rates[number, "protected"], row.rates[number, "raw"]) for number in whole]
        interval = interval_pct(ratios, level=0.95)
        row.half_width_pct = None if interval is None else interval.half_width


def _eta(row: _Row, event: Mapping[str, Any], leg: tuple[int, str]) -> float | None:
    """The rest of this leg at its pace so far, and the legs to come as long as those before took on average."""
    fraction, elapsed = event.get("fraction"), float(event.get("elapsed_s") or 0.0)
    ended = [seconds for each, seconds in row.took_s.items() if each != leg]
    rest = elapsed * (1 - fraction) / fraction if fraction else None
    if rest is None and sum(ended) > elapsed * len(ended):
        rest = sum(ended) / len(ended) - elapsed
    if rest is None or leg[1] not in _LEGS:
        return rest
    usual = (sum(ended) + elapsed + rest) / (len(ended) + 1)
    return float(rest + usual * max(len(_LEGS) * int(event.get("rounds") or 1) - len(ended) - 1, 0))


def duration(seconds: float) -> str:
    """Seconds as a person reads them."""
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004
        return f"{whole} s"
    if whole < 3600:  # noqa: PLR2004
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
