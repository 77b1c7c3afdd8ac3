"""Remarks that a verdict's reason carries: estimates that disagree, one-sided outliers, legs without a steady rate.

A remark follows from the figures alone and changes no verdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.overhead.effects import STEADY_PCT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_glasshouse.overhead.effects import Outliers, Steadiness
    from pytest_glasshouse.overhead.estimate import Figure
    from pytest_glasshouse.overhead.interval import Interval


class Remarkable(Protocol):
    """The part of a row's estimates (`overhead.estimate.Estimates`) that remarks are about."""

    @property
    def agree(self) -> bool | None: ...
    @property
    def trimmed(self) -> Figure: ...
    @property
    def outliers(self) -> Outliers: ...
    @property
    def steadiness(self) -> Sequence[Steadiness]: ...


def remarks(estimated: Remarkable, *, both_legs: bool = False) -> tuple[str, ...]:
    """Every remark on a row's estimates, in a fixed order.

    A leg without a steady rate is remarked where the other drifts otherwise; with `both_legs` also where both drift alike, which
    cancels in their ratio.
    """
    return tuple(_remarks(estimated, both_legs=both_legs))


def _remarks(estimated: Remarkable, *, both_legs: bool) -> Iterator[str]:
    trimmed = estimated.trimmed
    if estimated.agree is False:
        yield f"the trimmed companion disagrees: {trimmed.pct:+.2f} % {_shown(trimmed.ci95)}"
    found = estimated.outliers
    if found.one_sided:
        leg, count = max(("protected", found.protected), ("raw", found.raw), key=lambda each: each[1])
        yield (
            f"{count} of {found.protected + found.raw} outlier pairs are slow in the {leg} leg (p = {found.p:.2g}): "
            "a cost that comes now and then, on one side"
        )
    drifts = [each.drift_pct for each in estimated.steadiness if each.drift_pct is not None]
    matters = both_legs or (bool(drifts) and max(drifts) - min(drifts) > STEADY_PCT)
    for each in estimated.steadiness if matters else ():
        if each.state not in {"steady", "too short to say"}:
            word = "has" if each.state == "no steady state" else "is"
            yield f"the {each.leg} leg {word} {each.state} ({each.drift_pct:+.2f} % within its rounds)"


def _shown(interval: Interval | None) -> str:
    return "(no interval)" if interval is None else f"(95 % interval {interval.low:+.2f} to {interval.high:+.2f})"
