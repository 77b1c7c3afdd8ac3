"""A leg that costs nothing to start: whole micro-steps of numpy, in turns, through the product's own `measure_segments`.

A step is `per` identical micro-steps in one loop, and `extra` more of them in a protected leg, so that under any load it truly
costs 1 - per / (per + extra): counting a step is the same work in both legs, and some ten thousandths of one. Deferred,
the extra work is put off to a thread that does it while the leg is paused.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import Any, cast

import numpy as np

from pytest_glasshouse.guest.launcher import die_with_parent
from pytest_glasshouse.workloads.base import Trainer
from pytest_glasshouse.workloads.loop import measure
from pytest_glasshouse.workloads.segments import SegmentPlan, TrainedSegment, measure_segments

_SIDE = 96


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a step of one leg is."""

    extra: int = 0
    per: int = 20
    deferred: bool = False

    @property
    def raw(self) -> Work:
        """The same without what it costs."""
        return Work(per=self.per)

    @property
    def truth_pct(self) -> float:
        """The overhead this is, in percent."""
        return (1 - self.per / (self.per + self.extra)) * 100


class Stepper:
    """The part of a `Trainer` that measuring needs."""

    def __init__(self, work: Work) -> None:
        draw = np.random.default_rng(1)
        self._left, self._right = draw.random((_SIDE, _SIDE)), draw.random((_SIDE, _SIDE))
        self._out = np.empty((_SIDE, _SIDE))
        self._micros = work.per + (0 if work.deferred else work.extra)
        self._deferred = work.extra if work.deferred else 0
        self.put_off = 0

    def step(self) -> None:
        for _ in range(self._micros):
            self.micro()
        self.put_off += self._deferred

    def micro(self) -> None:
        np.dot(self._left, self._right, out=self._out)

    def synchronize(self) -> None:
        """numpy is done when it returns."""

    def check(self) -> str:
        return repr(float(self._out[0, 0]))

    def sample_sha256(self) -> str:
        return sha256(self._out[0].tobytes()).hexdigest()


class PipeTurns:
    """Turns through a pipe: waiting is a blocking read, draining a question that is answered."""

    def __init__(self, pipe: Connection[Any, Any], stepper: Stepper) -> None:
        self._pipe = pipe
        self._stepper = stepper

    def warmed_up(self) -> None: ...

    def repeat_with(self, repeat: Callable[[int], list[str]]) -> None: ...

    def resident(self, *, warmup_units: int, warmup_ns: int, steady: bool) -> None:
        self._pipe.send(("resident", steady))

    def wait(self) -> int | None:
        kind, number = self._pipe.recv()
        while kind == "repeat":
            # Nothing here has a prologue; what a repetition is asked for and answered with is no time of a turn.
            self._pipe.send(("repeated", None))
            kind, number = self._pipe.recv()
        return cast("int", number) if kind == "turn" else None

    def drain(self) -> None:
        self._pipe.send(("drain", None))
        self._pipe.recv()

    def clock_read(self) -> None: ...

    def done(self, segment: TrainedSegment) -> None:
        self._pipe.send(("turn-done", segment.to_json()))
        if self._stepper.put_off:
            threading.Thread(target=self._catch_up).start()

    def _catch_up(self) -> None:
        while self._stepper.put_off > 0:
            self._stepper.put_off -= 1
            self._stepper.micro()


def _settle(core: int) -> None:
    """Run on this core only, and no longer than the parent process: a killed calibration leaves no load behind."""
    die_with_parent()
    os.sched_setaffinity(0, {core})


def in_turns(pipe: Connection[Any, Any], work: Work, plan: SegmentPlan, core: int) -> None:
    """The body of a resident process: one leg of an interleaved round."""
    _settle(core)
    stepper = Stepper(work)
    measure_segments(cast("Trainer", stepper), plan=plan, turns=PipeTurns(pipe, stepper))


def alone(pipe: Connection[Any, Any], work: Work, warmup_s: float, target_s: float, core: int) -> None:
    """The body of a sequential leg: units and nanoseconds."""
    _settle(core)
    found = measure(cast("Trainer", Stepper(work)), warmup_s=warmup_s, target_s=target_s)
    pipe.send((found.units, found.elapsed_ns))


def neighbour(seed: int, busy_s: float, core: int) -> None:
    """A competing load on the same core, until killed: works and rests for log-normal times around `busy_s` seconds."""
    _settle(core)
    draw, stepper = np.random.default_rng(seed), Stepper(Work())
    while True:
        until = time.monotonic() + draw.lognormal(np.log(busy_s), 0.7)
        while time.monotonic() < until:
            stepper.micro()
        time.sleep(draw.lognormal(np.log(busy_s), 0.7))
