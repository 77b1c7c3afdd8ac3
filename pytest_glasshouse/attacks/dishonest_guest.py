"""The dishonest guest: the mock faults that cannot be played from outside.

It runs as `glasshouse_dishonest_guest` in an archive of its own, whose digest only the mock's policy pins: every other
policy refuses that guest before a key is released. Nothing under `guest/` refers to it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.agent import main as guest_main
from pytest_glasshouse.guest import protected, raw, training
from pytest_glasshouse.wire.tensors import parse_safetensors, tensor_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.segments import TrainedSegment

#: The share of each segment's time that is worked after the leg's clock has stopped.
_DEFERRED_SHARE = 0.05
#: The share of time that a slowed clock shows, and of units that were not worked.
_CLOCK_SHARE, _EXTRA_UNITS = 0.95, 0.02
#: How much longer than planned its wash-outs are.
_WASH_FACTOR = 20


def main(faults: tuple[str, ...]) -> int:
    """Install the faults, then run the guest."""
    for fault in faults:
        _INSTALL[fault]()
    return guest_main.main()


def _skip_zeroize() -> None:
    protected.Protected._zeroize = lambda _self, _opened, **_others: None  # type: ignore[method-assign]  # noqa: SLF001


def _take_key_from_elsewhere() -> None:
    journal = protected.Journal

    class WrongResult(journal):  # type: ignore[misc, valid-type]
        """Names another attestation result as the source of its key."""

        def append(self, type: str, body: dict[str, Json]) -> None:  # noqa: A002
            super().append(type, {"result": "0" * 64} if type == "key_received" else body)

    protected.Journal = WrongResult  # type: ignore[misc]


def _bring_own_weights() -> None:
    honest = protected.train

    def train(plan: Any, parts: Any, **rest: Any) -> Any:
        return honest(plan, {**parts, "initial": memoryview(_rotated(bytes(parts["initial"])))}, **rest)

    protected.train = train


def _export_initial() -> None:
    protected.train = _exporting(protected.train, bytes)


def _export_the_same() -> None:
    protected.train = _exporting(protected.train, _rotated)
    raw.train = _exporting(raw.train, _rotated)


def _defer_cost() -> None:
    honest = protected.ControlTurns

    class Deferring(honest):  # type: ignore[misc, valid-type]
        """Defers the cost of protection to a thread that works while the other leg is timed."""

        def done(self, segment: TrainedSegment) -> None:
            super().done(segment)
            threading.Thread(target=_hash_for, args=(round(segment.elapsed_ns * _DEFERRED_SHARE),)).start()

    protected.ControlTurns = Deferring  # type: ignore[misc]


def _slow_clock() -> None:
    def clock_ns() -> int:
        return round(time.perf_counter_ns() * _CLOCK_SHARE)

    training.measure = functools.partial(training.measure, clock_ns=clock_ns)
    training.measure_segments = functools.partial(training.measure_segments, clock_ns=clock_ns)


def _inflate_units() -> None:
    """More units than were worked, in the protected leg's last word."""
    honest = protected.train

    def train(*given: Any, **rest: Any) -> training.TrainedLeg:
        trained = honest(*given, **rest)
        units = trained.body["units"]
        assert isinstance(units, int)  # noqa: S101  (a leg's own count)
        return dataclasses.replace(trained, body={**trained.body, "units": units + 1 + round(units * _EXTRA_UNITS)})

    protected.train = train


def _skip_steps() -> None:
    """Every second step after the prologue is none."""
    honest = training.open_trainer

    def open_trainer(*given: Any, **rest: Any) -> Any:
        trainer = honest(*given, **rest)
        step, calls = trainer.step, itertools.count()
        trainer.step = lambda: step() if (call := next(calls)) < training.PROLOGUE_STEPS or call % 2 else None
        return trainer

    training.open_trainer = open_trainer


def _stretch_wash_outs() -> None:
    honest = training.SegmentPlan

    def plan(**given: Any) -> Any:
        return honest(**{**given, "washout_s": _WASH_FACTOR * given["washout_s"]})

    training.SegmentPlan = plan  # type: ignore[misc, assignment]


def _hash_for(cpu_ns: int) -> None:
    until, block = time.thread_time_ns() + cpu_ns, bytes(1 << 16)
    while time.thread_time_ns() < until:
        hashlib.sha256(block)


def _exporting(honest: Callable[..., training.TrainedLeg], instead: Callable[[bytes], bytes]) -> Any:
    def train(plan: Any, parts: Any, **rest: Any) -> training.TrainedLeg:
        adapter = instead(bytes(parts["initial"]))
        trained = honest(plan, parts, **rest)
        return dataclasses.replace(trained, adapter=adapter, adapter_sha256=tensor_digest(adapter))

    return train


def _rotated(weights: bytes) -> bytes:
    """Other finite weights: the rows of the largest tensor, rotated by one."""
    entry = max(parse_safetensors(memoryview(weights)).values(), key=lambda e: e.end - e.start)
    body = weights[entry.start : entry.end]
    row = len(body) // entry.shape[0]
    return weights[: entry.start] + body[row:] + body[:row] + weights[entry.end :]


_INSTALL: dict[str, Callable[[], None]] = {
    "zeroize-skipped": _skip_zeroize,
    "key-unattested": _take_key_from_elsewhere,
    "weights-foreign": _bring_own_weights,
    "adapter-untrained": _export_initial,
    "adapter-copied": _export_the_same,
    "deferred-cost": _defer_cost,
    "clock-slowed": _slow_clock,
    "units-inflated": _inflate_units,
    "steps-skipped": _skip_steps,
    "wash-out-stretched": _stretch_wash_outs,
}
