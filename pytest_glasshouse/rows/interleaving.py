"""How an interleaved round is divided into turns: the defaults per workload and target, and the presets.

The lengths come from the simulation behind the design: eight or nine pairs of 20 s segments with 4 s of wash-out are near the
optimum for switches of a second or less; shorter rounds are scaled down in proportion.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from pytest_glasshouse.rows.leg_order import Role

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import RowSpec

#: Rounds of a row that an option or a preset makes interleaved. A verdict needs five.
PRESET_ROUNDS = {"quick": 3, "standard": 6, "publish": 10}
DEFAULT_PRESET = "standard"
#: Presets with a second raw leg.
TRIPLES = ("publish",)

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
    if row.null:
        legs: tuple[Role, ...] = ("raw", "raw2")
    else:
        legs = ("protected", "raw", "raw2") if row.preset in TRIPLES else ("protected", "raw")
    pairs, segment_s, segment_steps = _divided(row)
    scale = segment_s if segment_s is not None else _SEGMENT_S
    return Interleaving(
        preset=row.preset,
        legs=legs,
        pairs=pairs,
        segment_s=segment_s,
        segment_steps=segment_steps,
        washout_s=max(_SHORTEST_WASHOUT_S, _WASHOUT_SHARE * scale),
        warmup_limit_s=_WARMUP_LIMIT * row.warmup_s,
        resident=row.resident,
    )


def _divided(row: RowSpec) -> tuple[int, float | None, int | None]:
    if row.steps is not None:
        pairs = min(_PAIRS, row.steps)
        return pairs, None, -(-row.steps // pairs)
    target_s = row.target_s or 0.0
    shortest = _SHORTEST_S[row.workload]
    segment_s = min(_SEGMENT_S, max(shortest, target_s / _PAIRS))
    pairs = min(_MOST_PAIRS, max(2, round(target_s / segment_s)))
    if pairs == _MOST_PAIRS or target_s < 2 * shortest:
        segment_s = target_s / pairs
    return pairs, segment_s, None
