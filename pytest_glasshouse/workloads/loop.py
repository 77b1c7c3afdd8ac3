"""How long a leg trains, and what is counted: whole steps, read after the device has finished them.

Knows a trainer and a clock. Refuses to know which leg it is: both are measured by this one function.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.workloads.base import Trainer

NS = 1_000_000_000
_CHUNK_NS = NS // 50
"""Steps given to a GPU between two waits are to last this long: waiting after each would starve it,
and waiting seldom would overrun the target."""
_REPORT_NS = NS


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """One measured stretch; the warm-up is counted apart and is in neither `units` nor `elapsed_ns`."""

    units: int
    elapsed_ns: int
    warmup_units: int
    warmup_ns: int
    cpu_ns: int
    """CPU time of the whole process, every thread of it, over the measured stretch."""
    stop_reason: Literal["time", "steps"]
    final_loss: str


def measure(
    trainer: Trainer,
    *,
    warmup_s: float,
    target_s: float | None = None,
    steps: int | None = None,
    on_progress: Callable[[int, int, str], None] | None = None,
    drain: Callable[[], None] = lambda: None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    cpu_ns: Callable[[], int] = time.process_time_ns,
) -> LoopResult:
    """Warm up, then train until `target_s` seconds have passed or `steps` units are done, whichever was asked for.

    `on_progress(units, elapsed_ns, loss)` is called at most once a second, inside the measured time. The losses are
    looked at once a second whether or not anybody listens, so that listening costs nothing extra. `drain()` returns when all
    that was told of is written; it is inside the measured time, whose cost it is.
    Raises `NonFiniteLossError`.
    """
    if (target_s is None) == (steps is None):
        raise ValueError("expected exactly one of target_s and steps")
    stretch = TimedStretch(trainer, clock_ns)
    warmup_units, warmup_ns = stretch.run(target_ns=round(warmup_s * NS), steps=None, on_progress=None)
    target_ns = None if target_s is None else round(target_s * NS)
    stretch.unreported_ns = 0
    cpu_before, began = cpu_ns(), clock_ns()
    units, _ = stretch.run(target_ns=target_ns, steps=steps, on_progress=on_progress)
    drain()
    elapsed_ns, cpu_after = clock_ns() - began, cpu_ns()
    return LoopResult(
        units=units,
        elapsed_ns=elapsed_ns,
        warmup_units=warmup_units,
        warmup_ns=warmup_ns,
        cpu_ns=cpu_after - cpu_before,
        stop_reason="time" if steps is None else "steps",
        final_loss=trainer.check(),
    )


class TimedStretch:
    """Runs chunks of steps; what it learns of their pace in the warm-up serves the measured part.

    `unreported_ns` is how much of what was run nobody has been told of; a stretch that goes on where another stopped is
    given what that one left.
    """

    def __init__(self, trainer: Trainer, clock_ns: Callable[[], int]) -> None:
        self._trainer = trainer
        self._clock_ns = clock_ns
        self._step_ns = _CHUNK_NS
        self.unreported_ns = 0

    def run(
        self, *, target_ns: int | None, steps: int | None, on_progress: Callable[[int, int, str], None] | None
    ) -> tuple[int, int]:
        """Units done and nanoseconds taken, the device waited for at both ends."""
        self._trainer.synchronize()
        began = self._clock_ns()
        units, elapsed, reported = 0, 0, -self.unreported_ns
        while (target_ns is None or elapsed < target_ns) and (steps is None or units < steps):
            chunk = max(1, min(_CHUNK_NS, _CHUNK_NS if target_ns is None else target_ns - elapsed) // self._step_ns)
            chunk = chunk if steps is None else min(chunk, steps - units)
            for _ in range(chunk):
                self._trainer.step()
            self._trainer.synchronize()
            now = self._clock_ns() - began
            self._step_ns = max(1, (now - elapsed) // chunk)
            units, elapsed = units + chunk, now
            if elapsed - reported >= _REPORT_NS:
                reported = elapsed
                loss = self._trainer.check()
                if on_progress is not None:
                    on_progress(units, elapsed, loss)
        self.unreported_ns = elapsed - reported
        return units, elapsed
