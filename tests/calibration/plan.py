"""What a live calibration measures and for how long: written down before its first full run."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_glasshouse.workloads.segments import SegmentPlan
from tests.calibration.stepper import Work


@dataclass(frozen=True, kw_only=True)
class Design:
    """How long everything takes, in seconds. A sequential row is given as long as an interleaved one takes."""

    rounds: int = 5
    pairs: int = 10
    segment_s: float = 0.15
    washout_s: float = 0.02
    warmup_s: float = 0.2
    neighbours: int = 2
    busy_s: float = 10.0

    def plan(self) -> SegmentPlan:
        return SegmentPlan(
            warmup_s=self.warmup_s, warmup_limit_s=2 * self.warmup_s, washout_s=self.washout_s, segment_s=self.segment_s,
            segment_steps=None,
        )  # fmt: skip


#: The second run's; the first began at 20 261 121 and found that its raw legs did more for a step than its protected ones.
SEED = 40_000_000
ROWS = 24
#: True overheads of 0, 0.4975, 1.9608 and 5 %.
COSTS = (Work(), Work(extra=1, per=200), Work(extra=1, per=50), Work(extra=1, per=19))
DEFERRED = Work(extra=1, per=19, deferred=True)
DESIGN = Design()
