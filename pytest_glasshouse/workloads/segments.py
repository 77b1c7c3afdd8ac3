"""Training in turns: a warm-up until the rate is steady, then one timed segment per turn.

Knows a trainer, a clock and a `TurnTaker`, not which leg it is: both legs are measured by the same function. A segment is whole
steps after a discarded wash-out, and everything the leg started has finished before its clock stops.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.workloads.loop import NS, Edges, GpuTimes, StepRunner, alone

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.workloads.base import Trainer
    from pytest_glasshouse.workloads.checkpoints import Checkpoints
    from pytest_glasshouse.workloads.cuda import DeviceClock, DeviceMark

#: The warm-up is divided into this many windows; more follow until the rate is steady.
_WINDOWS = 6
#: Why the warm-up is over.
_LIMIT_END, _STEADY_END = 1, 2
#: The rate is steady when the halves of the last windows differ by less than this, whatever their scatter.
_STEADY = 0.02


class TurnTaker(Edges, Protocol):
    """Decides when the leg trains. Every call is made by the training thread."""

    def resident(self, *, warmup_units: int, warmup_ns: int, steady: bool) -> None:
        """Report that the leg is warmed up and waits."""

    def wait(self) -> int | None:
        """Block without using the CPU until it is this leg's turn; returns its number, or None after the last.

        What is to be repeated in between (`Trainer.repeat_prologue`) is repeated before it returns.
        """

    def repeat_with(self, repeat: Callable[[int], list[str]]) -> None:
        """What repeats so many steps of the prologue in between, and returns their losses."""

    def done(self, segment: TrainedSegment) -> None:
        """Report that the turn is over."""


@dataclass(frozen=True, kw_only=True)
class SegmentPlan:
    """The length of one turn. Exactly one of `segment_s` and `segment_steps` is set."""

    warmup_s: float
    warmup_limit_s: float
    washout_s: float
    segment_s: float | None
    segment_steps: int | None


@dataclass(frozen=True, kw_only=True)
class TrainedSegment:
    """One timed segment and its wash-out. `cpu_ns` and `wash_cpu_ns` are CPU times of the leg's own process."""

    turn: int
    units: int
    elapsed_ns: int
    cpu_ns: int
    wash_units: int
    wash_ns: int
    wash_cpu_ns: int

    def to_json(self) -> list[int]:
        """The values in the order of the fields."""
        return [self.turn, self.units, self.elapsed_ns, self.cpu_ns, self.wash_units, self.wash_ns, self.wash_cpu_ns]


@dataclass(frozen=True, kw_only=True)
class MeasuredSegments:
    """All turns of one leg. `steady` is whether the warm-up ended because the rate was steady."""

    segments: tuple[TrainedSegment, ...]
    warmup_units: int
    warmup_ns: int
    steady: bool
    final_loss: str
    checkpoints: Checkpoints
    gpu: tuple[GpuTimes, ...] | None = None


def measure_segments(
    trainer: Trainer,
    *,
    plan: SegmentPlan,
    turns: TurnTaker,
    on_progress: Callable[[int, int, str], None] | None = None,
    agree: Callable[[int], int] = alone,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_ns: Callable[[], int] = time.process_time_ns,
    device: DeviceClock | None = None,
) -> MeasuredSegments:
    """Warm up, then train one segment per turn until there are no more.

    `on_progress(units, elapsed_ns, loss)` is called once per second of a timed segment and at its end, inside the timed part.
    `agree` and `device` are `StepRunner`'s. Raises `NonFiniteLossError`.
    """
    if (plan.segment_s is None) == (plan.segment_steps is None):
        raise ValueError("expected exactly one of segment_s and segment_steps")
    runner = StepRunner(trainer, clock_ns, agree, device)
    warmup_units, warmup_ns, steady = _warm_up(runner, plan, agree)
    turns.resident(warmup_units=warmup_units, warmup_ns=warmup_ns, steady=steady)
    done: list[TrainedSegment] = []
    marked: list[tuple[int, list[DeviceMark | None]]] = []
    units_before = elapsed_before = 0
    while (turn := turns.wait()) is not None:
        marks = [runner.mark()]
        wash_began = cpu_ns()
        wash_units, wash_ns = runner.run(target_ns=round(plan.washout_s * NS), steps=None, on_progress=None)
        target_ns = None if plan.segment_s is None else round(plan.segment_s * NS)
        report = _shifted(on_progress, units_before, elapsed_before)
        turns.drain()
        steps_ns = runner.steps_ns
        marks.append(runner.mark())
        cpu_began, began = cpu_ns(), clock_ns()
        turns.clock_read()
        units, _ = runner.run(target_ns=target_ns, steps=plan.segment_steps, on_progress=report)
        # Nothing that this leg started may run during the other leg's turn.
        turns.drain()
        elapsed_ns, cpu = clock_ns() - began, cpu_ns() - cpu_began
        marks.append(runner.mark())
        turns.clock_read()
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
        marks.append(runner.mark())
        marked.append((runner.steps_ns - steps_ns, marks))
    trainer.synchronize()
    return MeasuredSegments(
        segments=tuple(done), warmup_units=warmup_units, warmup_ns=warmup_ns, steady=steady, final_loss=trainer.check(),
        checkpoints=runner.checkpoints, gpu=None if device is None else tuple(_gpu_times(*each) for each in marked),
    )  # fmt: skip


def _gpu_times(steps_ns: int, marks: Sequence[DeviceMark | None]) -> GpuTimes:
    """Of a turn that was marked when it began, when its clock did, when that stopped, and when the turn was over."""
    turn, began, stopped, over = (mark for mark in marks if mark is not None)
    return GpuTimes(steps_ns=steps_ns, stretch_ns=stopped.ns_since(began), turn_ns=over.ns_since(turn))


def _warm_up(runner: StepRunner, plan: SegmentPlan, agree: Callable[[int], int]) -> tuple[int, int, bool]:
    units = elapsed_ns = 0
    rates: list[float] = []
    window_ns = round(plan.warmup_s * NS / _WINDOWS)
    while True:
        done, took_ns = runner.run(target_ns=window_ns, steps=None, on_progress=None)
        units, elapsed_ns = units + done, elapsed_ns + took_ns
        rates.append(done / took_ns if took_ns else 0.0)
        steady = elapsed_ns >= plan.warmup_s * NS and is_steady(rates)
        over = agree(_STEADY_END if steady else _LIMIT_END if elapsed_ns >= plan.warmup_limit_s * NS else 0)
        if over:
            return units, elapsed_ns, over == _STEADY_END


def is_steady(rates: Sequence[float]) -> bool:
    """Whether the last windows show no trend: their halves differ by less than 2 %, or by less than their scatter explains."""
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
