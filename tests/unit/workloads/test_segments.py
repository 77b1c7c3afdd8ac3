"""Turns decide what is counted where, so they are tried on a clock that the test moves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pytest_glasshouse.workloads.loop import NS
from pytest_glasshouse.workloads.segments import SegmentPlan, TrainedSegment, is_steady, measure_segments
from tests.unit.workloads.fake_trainer import MS, FakeTrainer


class FakeTurns:
    """Gives turns, and lets the clock run while it is asked to: draining and waiting take time."""

    def __init__(self, trainer: FakeTrainer, turns: list[int], *, drain_ns: int = 0, wait_ns: int = 0) -> None:
        self._trainer = trainer
        self._turns = turns
        self._drain_ns = drain_ns
        self._wait_ns = wait_ns
        self.calls: list[str] = []
        self.segments: list[TrainedSegment] = []
        self.warm: tuple[int, int, bool] | None = None

    def warmed_up(self) -> None: ...

    def repeat_with(self, repeat: Callable[[int], list[str]]) -> None: ...

    def resident(self, *, warmup_units: int, warmup_ns: int, steady: bool) -> None:
        self.calls.append("resident")
        self.warm = (warmup_units, warmup_ns, steady)

    def wait(self) -> int | None:
        self.calls.append("wait")
        self._trainer.now += self._wait_ns
        return self._turns.pop(0) if self._turns else None

    def drain(self) -> None:
        self.calls.append("drain")
        self._trainer.now += self._drain_ns

    def clock_read(self) -> None:
        self.calls.append("read")

    def done(self, segment: TrainedSegment) -> None:
        self.calls.append("done")
        self.segments.append(segment)


def _plan(**changes: float | None) -> SegmentPlan:
    given = {"warmup_s": 0.6, "warmup_limit_s": 3.0, "washout_s": 0.1, "segment_s": 0.5, "segment_steps": None, **changes}
    return SegmentPlan(**given)  # type: ignore[arg-type]


def test_each_turn_has_a_discarded_washout_and_a_timed_segment() -> None:
    trainer = FakeTrainer(MS)
    turns = FakeTurns(trainer, [2, 3, 7])
    measured = measure_segments(trainer, plan=_plan(), turns=turns, clock_ns=trainer.clock, cpu_ns=lambda: 0)
    assert [segment.turn for segment in measured.segments] == [2, 3, 7]
    assert turns.segments == list(measured.segments)
    assert all((segment.units, segment.elapsed_ns) == (500, NS // 2) for segment in measured.segments)
    assert all((segment.wash_units, segment.wash_ns) == (100, NS // 10) for segment in measured.segments)
    assert turns.calls == ["resident", *["wait", "drain", "read", "drain", "read", "done"] * 3, "wait"]
    assert trainer.steps == measured.warmup_units + 3 * 600


class DeviceClock:
    """The clock of the trainer's device."""

    def __init__(self, trainer: FakeTrainer) -> None:
        self._trainer = trainer

    def mark(self) -> Mark:
        return Mark(self._trainer.now)


class Mark(int):
    def ns_since(self, before: int) -> int:
        return self - before


def test_a_device_with_a_clock_of_its_own_times_steps_stretch_and_turn() -> None:
    """What passes after the leg's clock has stopped is in its turn, and in no stretch."""
    trainer = FakeTrainer(MS)

    class Idle(FakeTurns):
        def done(self, segment: TrainedSegment) -> None:
            super().done(segment)
            trainer.now += 90 * MS

    measured = measure_segments(
        trainer, plan=_plan(), turns=Idle(trainer, [1, 2], drain_ns=3 * MS, wait_ns=9 * NS), clock_ns=trainer.clock,
        cpu_ns=lambda: 0, device=DeviceClock(trainer),
    )  # fmt: skip
    assert measured.gpu is not None
    assert [each.stretch_ns for each in measured.gpu] == [segment.elapsed_ns for segment in measured.segments] == [503 * MS] * 2
    assert [each.turn_ns for each in measured.gpu] == [(100 + 3 + 503 + 90) * MS] * 2
    assert all(0 <= each.steps_ns <= each.stretch_ns for each in measured.gpu)


def test_draining_is_inside_the_timed_segment_and_waiting_is_not() -> None:
    """What a leg started has to be over before its clock stops: else the other leg pays for it."""
    trainer = FakeTrainer(MS)
    turns = FakeTurns(trainer, [1, 2], drain_ns=40 * MS, wait_ns=9 * NS)
    measured = measure_segments(trainer, plan=_plan(), turns=turns, clock_ns=trainer.clock, cpu_ns=lambda: 0)
    assert [segment.elapsed_ns for segment in measured.segments] == [540 * MS, 540 * MS]


def test_progress_is_reported_once_a_second_and_at_the_end_of_a_segment_and_never_in_a_washout() -> None:
    trainer = FakeTrainer(MS)
    progress: list[tuple[int, int]] = []
    measured = measure_segments(
        trainer,
        plan=_plan(washout_s=2.0, segment_s=1.5),
        turns=FakeTurns(trainer, [1, 2]),
        on_progress=lambda units, elapsed_ns, _loss: progress.append((units, elapsed_ns)),
        clock_ns=trainer.clock,
        cpu_ns=lambda: 0,
    )
    assert [units for units, _ in progress] == [1000, 1500, 2500, 3000]
    assert len(measured.segments) == 2


def test_segment_may_be_a_number_of_steps() -> None:
    trainer = FakeTrainer(7 * MS)
    plan = _plan(segment_s=None, segment_steps=5)
    measured = measure_segments(trainer, plan=plan, turns=FakeTurns(trainer, [1]), clock_ns=trainer.clock, cpu_ns=lambda: 0)
    assert [(segment.units, segment.elapsed_ns) for segment in measured.segments] == [(5, 35 * MS)]


class Warming(FakeTrainer):
    """Gets faster for the first 1.5 s."""

    def synchronize(self) -> None:
        self._step_ns = MS if self.now > 1.5 * NS else 3 * MS - round(self.now * 2 / 1500)
        super().synchronize()


def test_warm_up_goes_on_until_the_rate_has_settled() -> None:
    trainer = Warming(MS)
    turns = FakeTurns(trainer, [])
    measure_segments(trainer, plan=_plan(), turns=turns, clock_ns=trainer.clock, cpu_ns=lambda: 0)
    assert turns.warm is not None
    assert turns.warm[1] > 1.5 * NS
    assert turns.warm[2] is True


def test_warm_up_that_never_settles_ends_at_its_limit_and_is_marked() -> None:
    trainer = Warming(MS)
    turns = FakeTurns(trainer, [])
    measure_segments(trainer, plan=_plan(warmup_limit_s=1.0), turns=turns, clock_ns=trainer.clock, cpu_ns=lambda: 0)
    assert turns.warm is not None
    assert NS <= turns.warm[1] < 1.2 * NS
    assert turns.warm[2] is False


@pytest.mark.parametrize(
    ("rates", "steady"),
    [
        ([1.0] * 6, True),
        ([1.0] * 5, False),
        ([1.0, 1.01, 0.99, 1.0, 1.02, 0.99], True),
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], False),
        ([0.5, 0.5, 0.5, 1.0, 1.0, 1.0], False),
        ([3.0, 2.0, 1.5, 1.2, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], True),
        ([0.0] * 6, False),
    ],
)
def test_warm_up_is_steady_without_a_trend_beyond_the_scatter(rates: list[float], steady: bool) -> None:
    assert is_steady(rates) is steady
