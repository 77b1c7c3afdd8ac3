"""What is counted decides every overhead, so it is tried on a clock that the test moves."""

from __future__ import annotations

import pytest

from pytest_glasshouse.workloads.base import NonFiniteLossError
from pytest_glasshouse.workloads.loop import NS, measure
from tests.unit.workloads.fake_trainer import MS, FakeTrainer


def test_time_target_stops_on_a_whole_step_after_the_target() -> None:
    trainer = FakeTrainer(300 * MS)
    measured = measure(trainer, warmup_s=0, target_s=1, clock_ns=trainer.clock)
    assert (measured.units, measured.elapsed_ns, measured.stop_reason) == (4, 1200 * MS, "time")


def test_step_target_stops_on_the_step() -> None:
    trainer = FakeTrainer(7 * MS)
    measured = measure(trainer, warmup_s=0, steps=100, clock_ns=trainer.clock)
    assert (measured.units, measured.elapsed_ns, measured.stop_reason) == (100, 700 * MS, "steps")
    assert trainer.steps == 100


def test_warm_up_is_counted_apart() -> None:
    trainer = FakeTrainer(100 * MS)
    measured = measure(trainer, warmup_s=0.5, steps=3, clock_ns=trainer.clock)
    assert (measured.warmup_units, measured.warmup_ns) == (5, 500 * MS)
    assert (measured.units, measured.elapsed_ns) == (3, 300 * MS)
    assert measured.final_loss == "loss after 8"


def test_no_warm_up_takes_no_step() -> None:
    trainer = FakeTrainer(100 * MS)
    measured = measure(trainer, warmup_s=0, steps=2, clock_ns=trainer.clock)
    assert (measured.warmup_units, measured.warmup_ns, trainer.steps) == (0, 0, 2)


def test_elapsed_time_covers_all_the_work_that_was_queued() -> None:
    """Steps are only launched; time read before the device is done would make the leg look faster."""
    trainer = FakeTrainer(MS)
    measured = measure(trainer, warmup_s=0, target_s=2, clock_ns=trainer.clock)
    assert measured.units * MS == measured.elapsed_ns
    assert 2000 * MS <= measured.elapsed_ns <= 2020 * MS


@pytest.mark.parametrize(("step_ms", "queued"), [(1, 1000), (30, 33), (300, 3), (1500, 1)])
def test_a_device_is_waited_for_once_a_second_and_not_after_every_step(step_ms: int, queued: int) -> None:
    """A GPU that is waited for after each step stands still until it is given the next, in both legs: their difference shrinks."""
    trainer = FakeTrainer(step_ms * MS)
    measure(trainer, warmup_s=0, target_s=5, clock_ns=trainer.clock)
    assert trainer.longest_queue == queued
    assert trainer.waits <= 2 * 5 + 5


def test_steps_that_become_slower_end_at_the_target_where_they_are_synchronous() -> None:
    """On the CPU a step is over when it returns; the next is not begun after the target."""

    class Synchronous(FakeTrainer):
        def step(self) -> None:
            super().step()
            self._step_ns = 100 * MS if self.now > NS else MS
            self.synchronize()

    trainer = Synchronous(MS)
    measured = measure(trainer, warmup_s=0, target_s=2, clock_ns=trainer.clock)
    assert 2 * NS <= measured.elapsed_ns < 2 * NS + 100 * MS


def test_progress_is_reported_once_a_second_and_at_the_end() -> None:
    trainer = FakeTrainer(100 * MS)
    seen: list[tuple[int, int, str]] = []
    measure(trainer, warmup_s=2, target_s=3.5, on_progress=lambda *progress: seen.append(progress), clock_ns=trainer.clock)
    assert seen == [
        (10, NS, "loss after 30"),
        (20, 2 * NS, "loss after 40"),
        (30, 3 * NS, "loss after 50"),
        (35, 3500 * MS, "loss after 55"),
    ]


def test_loss_is_checked_with_and_without_a_progress_callback() -> None:
    """An hour of NaN is not worth waiting for, and listening must not change the work."""
    trainer = FakeTrainer(100 * MS, bad_at=5)
    with pytest.raises(NonFiniteLossError):
        measure(trainer, warmup_s=0, target_s=3600, clock_ns=trainer.clock)
    assert trainer.steps == 10


def test_non_finite_loss_in_the_last_step_is_seen() -> None:
    trainer = FakeTrainer(100 * MS, bad_at=3)
    with pytest.raises(NonFiniteLossError):
        measure(trainer, warmup_s=0, steps=3, clock_ns=trainer.clock)


@pytest.mark.parametrize(("target_s", "steps"), [(None, None), (1.0, 1)])
def test_exactly_one_target_is_asked_for(target_s: float | None, steps: int | None) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        measure(FakeTrainer(MS), warmup_s=0, target_s=target_s, steps=steps)
