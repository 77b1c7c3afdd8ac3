"""How a leg trains in turns: warmed up until it is steady, then one timed segment whenever it is its turn.

Knows a trainer, a clock and whoever gives the turns. Refuses to know which leg it is: both are measured by this one
function. A segment is whole steps after a discarded wash-out, and everything the leg started is over before its clock stops.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.workloads.loop import NS, TimedStretch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.workloads.base import Trainer

#: The warm-up is looked at in this many windows, and in as many more as it takes.
_WINDOWS = 6
#: Two halves of the last windows whose rates differ by less than this are steady, whatever their scatter.
_STEADY = 0.02


class TurnTaker(Protocol):
    """Who says when this leg trains. Every call is made by the training thread."""

    def resident(self, *, warmup_units: int, warmup_ns: int, steady: bool) -> None:
        """The leg is warm and waits."""

    def wait(self) -> int | None:
        """Block, using no processor, until it is this leg's turn; its number, or None when there are no more."""

    def drain(self) -> None:
        """Return when everything this leg has said is where it goes and nothing it started is still under way."""

    def done(self, segment: TrainedSegment) -> None:
        """The turn is over."""


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """How long one turn is. Exactly one of `segment_s` and `segment_steps` is set."""

    warmup_s: float
    warmup_limit_s: float
    washout_s: float
    segment_s: float | None
    segment_steps: int | None


@dataclass(frozen=True, kw_only=True)
class TrainedSegment:
    """One timed stretch, and the discarded one before it. `cpu_ns` and `wash_cpu_ns` are of the leg's own process."""

    turn: int
    units: int
    elapsed_ns: int
    cpu_ns: int
    wash_units: int
    wash_ns: int
    wash_cpu_ns: int

    def to_json(self) -> list[int]:
        """In the order of the fields."""
        return [self.turn, self.units, self.elapsed_ns, self.cpu_ns, self.wash_units, self.wash_ns, self.wash_cpu_ns]


@dataclass(frozen=True, kw_only=True)
class MeasuredSegments:
    """Every turn of one leg. `steady` says whether the warm-up ended because the rate had settled."""

    segments: tuple[TrainedSegment, ...]
    warmup_units: int
    warmup_ns: int
    steady: bool
    final_loss: str


def measure_segments(
    trainer: Trainer,
    *,
    plan: SegmentPlan,
    turns: TurnTaker,
    on_progress: Callable[[int, int, str], None] | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_ns: Callable[[], int] = time.process_time_ns,
) -> MeasuredSegments:
    """Warm up, then train one segment per turn until there are no more.

    `on_progress(units, elapsed_ns, loss)` is called at most once a second of timed training, inside the timed stretch.
    Raises `NonFiniteLossError`.
    """
    if (plan.segment_s is None) == (plan.segment_steps is None):
        raise ValueError("expected exactly one of segment_s and segment_steps")
    stretch = TimedStretch(trainer, clock_ns)
    warmup_units, warmup_ns, steady = _warm_up(stretch, plan)
    turns.resident(warmup_units=warmup_units, warmup_ns=warmup_ns, steady=steady)
    done: list[TrainedSegment] = []
    units_before = elapsed_before = left_over = 0
    while (turn := turns.wait()) is not None:
        stretch.unreported_ns = 0
        wash_began = cpu_ns()
        wash_units, wash_ns = stretch.run(target_ns=round(plan.washout_s * NS), steps=None, on_progress=None)
        stretch.unreported_ns = left_over
        target_ns = None if plan.segment_s is None else round(plan.segment_s * NS)
        report = _shifted(on_progress, units_before, elapsed_before)
        cpu_began, began = cpu_ns(), clock_ns()
        units, _ = stretch.run(target_ns=target_ns, steps=plan.segment_steps, on_progress=report)
        # Nothing the leg started may run on in the other leg's time.
        turns.drain()
        elapsed_ns, cpu = clock_ns() - began, cpu_ns() - cpu_began
        left_over = stretch.unreported_ns
        units_before, elapsed_before = units_before + units, elapsed_before + elapsed_ns
        done.append(
            TrainedSegment(
                turn=turn,
                units=units,
                elapsed_ns=elapsed_ns,
                cpu_ns=cpu,
                wash_units=wash_units,
                wash_ns=wash_ns,
                wash_cpu_ns=cpu_began - wash_began,
            )
        )
        turns.done(done[-1])
    return MeasuredSegments(
        segments=tuple(done), warmup_units=warmup_units, warmup_ns=warmup_ns, steady=steady, final_loss=trainer.check()
    )


def _warm_up(stretch: TimedStretch, plan: SegmentPlan) -> tuple[int, int, bool]:
    units = elapsed_ns = 0
    rates: list[float] = []
    window_ns = round(plan.warmup_s * NS / _WINDOWS)
    while True:
        done, took_ns = stretch.run(target_ns=window_ns, steps=None, on_progress=None)
        units, elapsed_ns = units + done, elapsed_ns + took_ns
        rates.append(done / took_ns if took_ns else 0.0)
        if elapsed_ns >= plan.warmup_s * NS and is_steady(rates):
            return units, elapsed_ns, True
        if elapsed_ns >= plan.warmup_limit_s * NS:
            return units, elapsed_ns, False


def is_steady(rates: Sequence[float]) -> bool:
    """Whether the last windows show no trend: their halves differ by less than 2 %, or less than their own scatter explains."""
    if len(rates) < _WINDOWS:
        return False
    half = _WINDOWS // 2
    first, second = rates[-_WINDOWS:-half], rates[-half:]
    means = [math.fsum(part) / half for part in (first, second)]
    if not all(means):
        return False
    scatter = math.sqrt(
        math.fsum((rate - mean) ** 2 for part, mean in zip((first, second), means, strict=True) for rate in part)
        / (_WINDOWS - 2)
        * (2 / half)
    )
    return abs(means[1] - means[0]) <= max(_STEADY * means[0], 2 * scatter)


def _shifted(
    on_progress: Callable[[int, int, str], None] | None, units_before: int, elapsed_before: int
) -> Callable[[int, int, str], None] | None:
    if on_progress is None:
        return None
    return lambda units, elapsed_ns, loss: on_progress(units_before + units, elapsed_before + elapsed_ns, loss)
