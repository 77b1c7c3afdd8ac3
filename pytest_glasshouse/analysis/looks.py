"""The looks of a row that may end before its last round: what was seen at each, and after which the row is decided.

The plan that is signed for names the rounds of the looks, the spending of error and the limit; `check` looks again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.extension import first_log_ratios
from pytest_glasshouse.analysis.sampling import starts_of
from pytest_glasshouse.overhead.interval import Sampling
from pytest_glasshouse.overhead.sequential import EXPONENT, LOOKS
from pytest_glasshouse.overhead.verdict import LimitJudgement, LimitVerdict, judge_limit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.round_fields import SequentialRecord
    from pytest_glasshouse.observation.document import Observation, SamplingPlan
    from pytest_glasshouse.observation.results import RoundResult


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Every look so far, by its rounds, and how many rounds the row has in all by them."""

    seen: tuple[tuple[int, LimitJudgement], ...]
    rounds_in_all: int


def plan_of_looks(limit_pct: float) -> SamplingPlan:
    """The members of the plan that name the looks."""
    return {"version": "2", "looks": list(LOOKS), "spending": f"{EXPONENT:g}", "limitPct": f"{limit_pct:g}"}


def looks_of(observation: Observation, rounds: Sequence[RoundResult]) -> Looks | None:
    """The looks at a row; None where the plan names none.

    Raises `ValueError` for looks or spending that this version has no errors for.
    """
    plan = observation.get("plan")
    planned = {} if plan is None else plan.get("sampling", {})
    if plan is None or "looks" not in planned:
        return None
    if planned["looks"] != list(LOOKS) or planned.get("spending") != f"{EXPONENT:g}":
        raise ValueError(f"looks {planned['looks']} with spending {planned.get('spending')} are not those there are errors for")
    ratios, starts = first_log_ratios(rounds, len(rounds)), starts_of([each.order for each in rounds])
    seen: list[tuple[int, LimitJudgement]] = []
    for count in LOOKS:
        if len(ratios) < count:
            return Looks(seen=tuple(seen), rounds_in_all=count)
        sampling = Sampling(starts=starts[:count], sequential=True)
        judged = judge_limit(ratios[:count], limit_pct=float(planned["limitPct"]), sampling=sampling)
        seen.append((count, judged))
        if judged.verdict is not LimitVerdict.INCONCLUSIVE:
            break
    return Looks(seen=tuple(seen), rounds_in_all=seen[-1][0])


def sequential_figures(observation: Observation, rounds: Sequence[RoundResult]) -> SequentialRecord:
    """`{"sequential": {...}}`; nothing for a row without looks."""
    looks = looks_of(observation, rounds)
    if looks is None:
        return {}
    return {
        "sequential": {
            "rounds": looks.rounds_in_all,
            "looks": [
                {
                    "rounds": count,
                    "judgement": judged.verdict.value,
                    "lower95Pct": judged.lower95_pct,
                    "upper95Pct": judged.upper95_pct,
                }
                for count, judged in looks.seen
            ],
        }
    }
