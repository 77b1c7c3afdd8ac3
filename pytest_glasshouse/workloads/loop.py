"""The measured training loop: whole steps, counted after the device has finished them.

Knows a trainer and a clock, not which leg it is: both legs are measured by the same function.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_glasshouse.workloads.checkpoints import Checkpoints

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.workloads.base import Trainer
    from pytest_glasshouse.workloads.cuda import DeviceClock, DeviceMark

NS = 1_000_000_000
_REPORT_NS = NS
"""How long the steps between two reports should take, and so those between two synchronisations: a GPU that is waited for after
every step starves until it is given the next."""


def alone(value: int) -> int:
    """What is agreed on where there is no other rank."""
    return value


class Edges(Protocol):
    """Tells the agent where a timed stretch begins and ends, so that its clock is a second witness of the leg's.

    At either end the leg calls `drain`, reads its clock, and calls `clock_read`: by the agent's clock, the reading lies between.
    """

    def warmed_up(self) -> None:
        """The leg is warmed up, and about to be timed: it repeats what it is asked to (`Trainer.repeat_prologue`)."""

    def drain(self) -> None:
        """Return when all messages of this leg are written and nothing it started is still running."""

    def clock_read(self) -> None:
        """The leg has read its clock."""


class NoEdges:
    """Edges that nobody is told of."""

    def warmed_up(self) -> None: ...

    def drain(self) -> None: ...

    def clock_read(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """The measured training; the warm-up is counted separately and is in neither `units` nor `elapsed_ns`."""

    units: int
    elapsed_ns: int
    warmup_units: int
    warmup_ns: int
    cpu_ns: int
    """CPU time of all threads of the process during the measured training."""
    stop_reason: Literal["time", "steps"]
    final_loss: str
    checkpoints: Checkpoints
    gpu: GpuTimes | None = None


@dataclass(frozen=True, kw_only=True)
class GpuTimes:
    """One timed stretch by the device's clock, in nanoseconds: within its chunks of steps, as a whole, and of the turn it is in.

    A stretch of a leg without turns is its own turn.
    """

    steps_ns: int
    stretch_ns: int
    turn_ns: int

    def to_json(self) -> list[int]:
        """The values in the order of the fields."""
        return [self.steps_ns, self.stretch_ns, self.turn_ns]


def measure(
    trainer: Trainer,
    *,
    warmup_s: float,
    target_s: float | None = None,
    steps: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    edges: Edges | None = None,
    agree: Callable[[int], int] = alone,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_ns: Callable[[], int] = time.process_time_ns,
    device: DeviceClock | None = None,
) -> LoopResult:
    """Warm up, then train for `target_s` seconds or `steps` units; exactly one of the two is given.

    `on_progress(units, elapsed_ns, loss)` is called at most once a second and at the end, inside the measured time. The loss is
    read then with or without a callback, so that both legs have the same cost. `edges.drain()` at the end is inside the measured
    time, because writing is a cost of the leg. `agree` and `device` are `StepRunner`'s. Raises `NonFiniteLossError`.
    """
    if (target_s is None) == (steps is None):
        raise ValueError("expected exactly one of target_s and steps")
    runner = StepRunner(trainer, clock_ns, agree, device)
    warmup_units, warmup_ns = runner.run(target_ns=round(warmup_s * NS), steps=None, on_progress=None)
    target_ns = None if target_s is None else round(target_s * NS)
    edges = edges or NoEdges()
    edges.warmed_up()
    edges.drain()
    steps_ns, mark = runner.steps_ns, runner.mark()
    cpu_before, began = cpu_ns(), clock_ns()
    edges.clock_read()
    units, _ = runner.run(target_ns=target_ns, steps=steps, on_progress=on_progress)
    edges.drain()
    elapsed_ns, cpu_after = clock_ns() - began, cpu_ns()
    over = runner.mark()
    edges.clock_read()
    final_loss = trainer.check()
    gpu = None
    if mark is not None and over is not None:
        trainer.synchronize()
        stretch_ns = over.ns_since(mark)
        gpu = GpuTimes(steps_ns=runner.steps_ns - steps_ns, stretch_ns=stretch_ns, turn_ns=stretch_ns)
    if not runner.checkpoints:
        # A training too short for a report that had no warm-up either: where it ended is told as well.
        runner.checkpoints.note(trainer, final_loss)
    return LoopResult(
        units=units,
        elapsed_ns=elapsed_ns,
        warmup_units=warmup_units,
        warmup_ns=warmup_ns,
        cpu_ns=cpu_after - cpu_before,
        stop_reason="time" if steps is None else "steps",
        final_loss=final_loss,
        checkpoints=runner.checkpoints,
        gpu=gpu,
    )


class StepRunner:
    """Runs steps in chunks, sized by the step time of the chunk before (the warm-up's last for the first measured one).

    A chunk ends where the next report or the target is due; the first step of all is a chunk of its own. Of several ranks all
    run the chunks of the first: `agree` takes this rank's number and returns the first rank's. `steps_ns` adds up the time
    within chunks by the clock of the `device`, where it has one of its own.
    """

    def __init__(
        self,
        trainer: Trainer,
        clock_ns: Callable[[], int],
        agree: Callable[[int], int] = alone,
        device: DeviceClock | None = None,
    ) -> None:
        self._trainer = trainer
        self._device = device
        self.steps_ns = 0
        self._clock_ns = clock_ns
        self._agree = agree
        self._step_ns = _REPORT_NS
        self.checkpoints = Checkpoints()

    def mark(self) -> DeviceMark | None:
        """A mark of the device's clock, where it has one."""
        return None if self._device is None else self._device.mark()

    def run(
        self, *, target_ns: int | None, steps: int | None, on_progress: Callable[[int, int, str], None] | None
    ) -> tuple[int, int]:
        """Train; returns units and nanoseconds, synchronised with the device at both ends.

        Progress is reported once a second and when the last step is done, and there are checkpoints; but none at the end of what
        is reported: of the next wash-out, or of the adapter, another one tells outside of measured time.
        """
        self._trainer.synchronize()
        began = self._clock_ns()
        units, elapsed, reported = 0, 0, 0
        chunk = self._agree(self._chunk(units, elapsed, due_ns=_REPORT_NS, target_ns=target_ns, steps=steps))
        while chunk:
            done, late = 0, False
            mark = self.mark()
            # On the CPU a step is over when it returns: none is begun after the target, however slow steps have become. Of
            # several ranks each runs all steps of the chunk that was agreed on.
            while done < chunk and not late:
                self._trainer.step()
                done += 1
                late = self._agree is alone and target_ns is not None and self._clock_ns() - began >= target_ns
            last = self.mark()
            self._trainer.synchronize()
            if mark is not None and last is not None:
                self.steps_ns += last.ns_since(mark)
            now = self._clock_ns() - began
            self._step_ns = max(1, (now - elapsed) // done)
            units, elapsed = units + done, now
            self.checkpoints.steps += done
            report = elapsed - reported >= _REPORT_NS
            reported = elapsed if report else reported
            due_ns = _REPORT_NS - (elapsed - reported)
            chunk = self._agree(self._chunk(units, elapsed, due_ns=due_ns, target_ns=target_ns, steps=steps))
            if report or not chunk:
                loss = self._trainer.check()
                if on_progress is None or chunk:
                    self.checkpoints.note(self._trainer, loss)
                if on_progress is not None:
                    on_progress(units, elapsed, loss)
        return units, elapsed

    def _chunk(self, units: int, elapsed_ns: int, *, due_ns: int, target_ns: int | None, steps: int | None) -> int:
        """How many steps until the next report, which is due in `due_ns`, or the end; 0 when it is over."""
        if (target_ns is not None and elapsed_ns >= target_ns) or (steps is not None and units >= steps):
            return 0
        due_ns = due_ns if target_ns is None else min(due_ns, target_ns - elapsed_ns)
        chunk = max(1, due_ns // self._step_ns)
        return chunk if steps is None else min(chunk, steps - units)
