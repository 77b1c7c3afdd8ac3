"""One overhead from several allocations: the only figure that may carry a GPU's name.

Random effects over allocations: each allocation's mean log ratio is a draw around the pool's mean. Between-allocation
variance by Paule and Mandel (1982), interval by Hartung, Knapp, Sidik and Jonkman: t with allocations - 1 degrees of
freedom, the scale never below 1 (Roever, Knapp and Friede 2015). The variance of a round is pooled over the allocations,
so weights follow the number of rounds and not one allocation's chance spread. Where an allocation has one round there is no
such variance, and the interval is Student's t over the allocations' means, which is the same for equal weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.overhead.interval import Interval, overhead_of_log_ratio, t_quantile
from pytest_glasshouse.overhead.verdict import Judgement, Verdict, by_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Fewer allocations allow no statement about a kind of GPU.
MIN_ALLOCATIONS = 3

RANDOM_EFFECTS = "random effects over allocations (Paule-Mandel, Hartung-Knapp-Sidik-Jonkman)"
T_OVER_MEANS = "Student's t over the allocations' means"


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """The pooled overhead in percent. `between_pct` is the standard deviation between allocations, None where unknown."""

    allocations: int
    rounds: int
    pct: float
    ci95: Interval
    ci90: Interval
    between_pct: float | None
    estimator: str
    judged: Judgement


def pool(allocations: Sequence[Sequence[float]], *, margin_pct: float) -> Pooled | None:
    """Pool allocations, each the log ratios of its rounds. None below three allocations."""
    given = [list(each) for each in allocations if each]
    if len(given) < MIN_ALLOCATIONS:
        return None
    means = [math.fsum(each) / len(each) for each in given]
    variances = _variances(given)
    if variances is not None:
        middle, error, tau = _random_effects(means, variances)
    else:
        middle, tau = math.fsum(means) / len(means), None
        error = math.sqrt(math.fsum((value - middle) ** 2 for value in means) / (len(means) - 1) / len(means))
    ci95, ci90 = (_interval(middle, error, len(means), tail) for tail in (0.025, 0.05))
    return Pooled(
        allocations=len(given),
        rounds=sum(map(len, given)),
        pct=overhead_of_log_ratio(middle),
        ci95=ci95,
        ci90=ci90,
        between_pct=None if tau is None else tau * 100,
        estimator=T_OVER_MEANS if tau is None else RANDOM_EFFECTS,
        judged=_judged(ci95, ci90, margin_pct),
    )


def _judged(ci95: Interval, ci90: Interval, margin_pct: float) -> Judgement:
    judged = by_interval(ci95, ci90, margin_pct=margin_pct)
    if judged.verdict is not Verdict.INCONCLUSIVE:
        return judged
    return Judgement(verdict=Verdict.INCONCLUSIVE, reason=f"{judged.reason}; more allocations may decide")


def _variances(given: Sequence[Sequence[float]]) -> list[float] | None:
    """The variance of each allocation's mean, from the spread of rounds pooled over all; None where rounds show none."""
    if min(map(len, given)) == 1:
        return None
    squares = math.fsum((value - math.fsum(each) / len(each)) ** 2 for each in given for value in each)
    one_round = squares / (sum(map(len, given)) - len(given))
    return [one_round / len(each) for each in given] if one_round else None


def _random_effects(means: Sequence[float], variances: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard error and between-allocation standard deviation, as log ratios."""
    from scipy.optimize import brentq

    freedom = len(means) - 1

    def excess(tau2: float) -> float:
        return _weighted(means, variances, tau2)[1] - freedom

    most = math.fsum((value - math.fsum(means) / len(means)) ** 2 for value in means)
    between = float(brentq(excess, 0.0, most)) if excess(0.0) > 0 else 0.0
    middle, chi2, weight = _weighted(means, variances, between)
    return middle, math.sqrt(max(1.0, chi2 / freedom) / weight), math.sqrt(between)


def _weighted(means: Sequence[float], variances: Sequence[float], tau2: float) -> tuple[float, float, float]:
    """The weighted mean, the weighted sum of squares around it, and the sum of weights."""
    weights = [1 / (each + tau2) for each in variances]
    weight = math.fsum(weights)
    middle = math.fsum(w * value for w, value in zip(weights, means, strict=True)) / weight
    return middle, math.fsum(w * (value - middle) ** 2 for w, value in zip(weights, means, strict=True)), weight


def _interval(middle: float, error: float, allocations: int, tail: float) -> Interval:
    reach = t_quantile(1 - tail, allocations - 1) * error
    return Interval(low=overhead_of_log_ratio(middle + reach), high=overhead_of_log_ratio(middle - reach))
