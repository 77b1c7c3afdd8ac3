"""How an interleaved row is divided into rounds and a round into turns: the defaults per workload and target, and the presets.

A preset is a row's time. Process starts vary more than segments do, so that time goes into as many rounds as it holds, of four
pairs each, and not fewer than a verdict needs. What a round costs beside its turns is assumed until the first one is over, and
measured then: the rounds of a row whose starts are dear become fewer and longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TypedDict

from pytest_glasshouse.rows.leg_order import Role

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import RowSpec

#: A preset's time, in rounds of both legs at the row's whole target.
PRESET_TIME = {"quick": 3, "standard": 6, "publish": 10}
DEFAULT_PRESET: Literal["standard"] = "standard"
#: Rounds of a preset's row: a verdict needs the fewest, and beyond the most the interval hardly narrows.
FEWEST_ROUNDS, MOST_ROUNDS_CUT = 5, 40
#: Pairs of a round: the first one's, and the most of any later one.
_PRESET_PAIRS, _MOST_PRESET_PAIRS = 4, 16
#: The variance of a pair over that of a process start, as assumed where the pairs of a round are chosen.
_PAIR_OVER_START = 8.0
#: Seconds of a leg beside warm-up and turns, until they are measured: its start, attestation and zeroize; its load.
ASSUMED_START_S = {"mlp": 8.0, "lora": 15.0}
ASSUMED_LOAD_S = {"mlp": 2.0, "lora": 35.0}

_PAIRS = 8
_SEGMENT_S = 20.0
#: A segment shorter than this holds too few steps of the workload.
_SHORTEST_S = {"mlp": 0.25, "lora": 0.5}
_WASHOUT_SHARE = 0.2
_SHORTEST_WASHOUT_S = 0.1
#: With more pairs the agent's signed account of the turns would not fit one message.
_MOST_PAIRS = 120
_WARMUP_LIMIT = 3.0


class InterleavingPlan(TypedDict):
    """An `Interleaving` in the plan that is signed for. Numbers that may be broken are texts."""

    preset: str | None
    legs: list[Role]
    pairs: int
    segmentSec: str | None
    segmentSteps: int | None
    washoutSec: str
    warmupLimitSec: str
    resident: bool


@dataclass(frozen=True, kw_only=True)
class Interleaving:
    """One round's design. Exactly one of `segment_s` and `segment_steps` is set; a row's target is divided among its pairs.

    `legs` take turns. They stay loaded together if `resident`; otherwise they do not fit on one device, and whole lifecycles
    alternate in random order instead.
    """

    preset: str | None
    legs: tuple[Role, ...]
    pairs: int
    segment_s: float | None
    segment_steps: int | None
    washout_s: float
    warmup_limit_s: float
    resident: bool

    def to_json(self) -> InterleavingPlan:
        """As the signed plan has it: numbers that may have a fraction are texts there."""
        return {
            "preset": self.preset,
            "legs": list(self.legs),
            "pairs": self.pairs,
            "segmentSec": None if self.segment_s is None else f"{self.segment_s:g}",
            "segmentSteps": self.segment_steps,
            "washoutSec": f"{self.washout_s:g}",
            "warmupLimitSec": f"{self.warmup_limit_s:g}",
            "resident": self.resident,
        }


def interleaving(row: RowSpec) -> Interleaving:
    """The design of an interleaved row."""
    legs: tuple[Role, ...] = ("raw", "raw2") if row.null else ("protected", "raw")
    pairs, segment_s, segment_steps = _divided(row)
    return Interleaving(
        preset=row.preset,
        legs=legs,
        pairs=pairs,
        segment_s=segment_s,
        segment_steps=segment_steps,
        washout_s=_washout_s(segment_s),
        warmup_limit_s=_WARMUP_LIMIT * row.warmup_s,
        resident=row.resident,
    )


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How a row's time was cut by its first round: `rounds` in all, `pairs` in each of the later ones."""

    round_cost_s: float
    pair_s: float
    rounds: int
    pairs: int


def cut(*, row_s: float, round_cost_s: float, pair_s: float) -> Cut:
    """The rounds and pairs of a row of `row_s` seconds, of which a round takes `round_cost_s` beside its pairs of `pair_s` each.

    The pairs that give the narrowest interval are sqrt(cost of a round / cost of a pair * variance of a pair / that of a start)
    (T. Kalibera and R. Jones, ISMM 2013); no more than leave a verdict its five rounds. Raises `ValueError` for no time.
    """
    if not all(math.isfinite(each) and each > 0 for each in (row_s, round_cost_s, pair_s)):
        raise ValueError(f"times must be finite and above 0, saw {row_s!r}, {round_cost_s!r} and {pair_s!r}")
    wanted = round(math.sqrt(round_cost_s / pair_s * _PAIR_OVER_START))
    room = int((row_s / FEWEST_ROUNDS - round_cost_s) / pair_s)
    pairs = max(_PRESET_PAIRS, min(wanted, room, _MOST_PRESET_PAIRS))
    # The first round has as many pairs as were planned before anything was known.
    later_s = row_s - (round_cost_s + _PRESET_PAIRS * pair_s)
    rounds = 1 + int(later_s / (round_cost_s + pairs * pair_s))
    return Cut(round_cost_s=round_cost_s, pair_s=pair_s, rounds=min(MOST_ROUNDS_CUT, max(FEWEST_ROUNDS, rounds)), pairs=pairs)


def row_seconds(row: RowSpec) -> float:
    """The time of a row of a preset, which its rounds are cut to, and of any other interleaved row, in seconds of its allocation.

    Targets in steps are taken as seconds: how long one takes is not known before the first round.
    """
    target_s = row.target_s if row.target_s is not None else float(row.steps or 0)
    timed_s = 2 * (1 + _WASHOUT_SHARE) * target_s
    rounds = row.rounds if row.preset is None else PRESET_TIME[row.preset]
    return rounds * (assumed_round_cost(row) + timed_s)


def assumed_round_cost(row: RowSpec) -> float:
    """Seconds of a round beside its turns, before one was measured."""
    return 2 * (ASSUMED_START_S[row.workload] + ASSUMED_LOAD_S[row.workload] + row.warmup_s)


def assumed_cut(row: RowSpec) -> Cut:
    """The rounds and pairs of a preset's row if its first round takes what is assumed."""
    _, segment_s, _ = _divided(row)
    pair_s = 2 * ((segment_s or _SEGMENT_S) + _washout_s(segment_s))
    return cut(row_s=row_seconds(row), round_cost_s=assumed_round_cost(row), pair_s=pair_s)


def with_preset_rounds(row: RowSpec) -> RowSpec:
    """A preset's row with its rounds: those assumed until the first is over, or where it cannot be cut, those of its preset."""
    if row.preset is None:
        return row
    if row.steps is not None or not row.resident:
        return replace(row, rounds=max(FEWEST_ROUNDS, PRESET_TIME[row.preset]), cut=False)
    return replace(row, rounds=assumed_cut(row).rounds, cut=True)


def of_whole_lifecycles(row: RowSpec) -> RowSpec:
    """An interleaved row whose legs do not fit on the device together: whole lifecycles alternate, and no time is cut."""
    apart = replace(row, resident=False, cut=False)
    return with_preset_rounds(apart) if row.cut else apart


def _washout_s(segment_s: float | None) -> float:
    return max(_SHORTEST_WASHOUT_S, _WASHOUT_SHARE * (_SEGMENT_S if segment_s is None else segment_s))


def _divided(row: RowSpec) -> tuple[int, float | None, int | None]:
    if row.steps is not None:
        pairs = min(_PAIRS if row.preset is None else _PRESET_PAIRS, row.steps)
        return pairs, None, -(-row.steps // pairs)
    target_s = row.target_s or 0.0
    shortest = _SHORTEST_S[row.workload]
    segment_s = min(_SEGMENT_S, max(shortest, target_s / _PAIRS))
    pairs = min(_MOST_PAIRS, max(2, round(target_s / segment_s)))
    if pairs == _MOST_PAIRS or target_s < 2 * shortest:
        segment_s = target_s / pairs
    return (pairs if row.preset is None else _PRESET_PAIRS), segment_s, None
