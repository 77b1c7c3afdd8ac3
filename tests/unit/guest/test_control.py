"""The training thread submits and goes on: messages are written by another thread, in order, and none is lost."""

from __future__ import annotations

import os
import socket
import threading
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.guest.control import BackgroundWriter, Control, ControlTurns, RankLink
from pytest_glasshouse.wire import frames
from pytest_glasshouse.wire.journal import Journal
from pytest_glasshouse.workloads.segments import SegmentPlan, measure_segments
from tests.limits import HANG_S
from tests.unit.workloads.fake_trainer import MS, FakeTrainer


def test_tasks_run_in_order_in_another_thread_and_are_drained() -> None:
    writer, done = BackgroundWriter(), []
    for number in range(100):
        writer.submit(lambda number=number: done.append((number, threading.get_ident())))  # type: ignore[misc]
    writer.drain()
    writer.close()
    assert [number for number, _ in done] == list(range(100))
    assert {thread for _, thread in done}.isdisjoint({threading.get_ident()})


def test_failed_task_is_raised_where_the_leg_drains() -> None:
    """A journal that cannot be written must not look written."""
    writer = BackgroundWriter()
    writer.submit(lambda: cast("Any", None).missing())
    with pytest.raises(AttributeError):
        writer.drain()
    writer.close()


def test_closed_writer_has_done_its_tasks() -> None:
    writer, done = BackgroundWriter(), []
    writer.submit(lambda: done.append(1))
    writer.close()
    assert done == [1]


class CountedTrainer(FakeTrainer):
    """Records, every hundred steps, the read and write calls of its thread."""

    def __init__(self) -> None:
        super().__init__(MS)
        self.calls: list[int] = []

    def step(self) -> None:
        super().step()
        if self.steps % 100 == 0:
            counters = dict(line.split(": ") for line in Path("/proc/thread-self/io").read_text().splitlines())
            self.calls.append(int(counters["syscr"]) + int(counters["syscw"]))


def _serve(connection: socket.socket, turns: list[int]) -> None:
    """An agent in a thread: gives turns and answers `drain`."""
    while (received := frames.receive(connection)) is not None:
        kind = received[0]["type"]
        if kind == "drain":
            frames.send(connection, {"type": "drained", "body": {}})
        elif kind in ("resident", "turn-done"):
            turn = turns.pop(0) if turns else 0
            frames.send(connection, {"type": "turn" if turn else "finish", "body": {"turn": turn}})


def test_training_thread_makes_no_system_call_for_progress() -> None:
    """10 000 steps with a journal line every second of them: the thread's own reads and writes stay where they were."""
    ours, theirs = socket.socketpair()
    agent = threading.Thread(target=_serve, args=(theirs, [1]), daemon=True)
    agent.start()
    control, writer, trainer = Control(ours), BackgroundWriter(), CountedTrainer()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        control.send("journal", {"line": line})

    journal = Journal("nonce", write, lambda: 0)
    journal.append("anti_debug_ready", {"wall": "2026-11-20T17:00:00Z"})
    plan = SegmentPlan(warmup_s=0.6, warmup_limit_s=0.6, washout_s=0.1, segment_s=10.0, segment_steps=None)
    measured = measure_segments(
        trainer,
        plan=plan,
        turns=ControlTurns(control, writer),
        on_progress=lambda units, _ns, _loss: writer.submit(lambda: journal.append("train_progress", {"units": units})),
        clock_ns=trainer.clock,
    )
    writer.close()
    ours.close()
    agent.join(HANG_S)
    theirs.close()
    assert len(lines) == 11
    (segment,) = measured.segments
    assert segment.units == 10_000
    # Reading the counter is itself a system call or two; nothing else may be.
    within = trainer.calls[-100:]
    each = {later - earlier for earlier, later in pairwise(within)}
    assert len(each) == 1
    assert each <= {1, 2, 3, 4}


def test_a_link_between_ranks_takes_messages_of_the_named_process_only() -> None:
    """Whoever has a copy of a rank's end could otherwise say that all are there, or share other memory."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        link = RankLink(ours, os.getpid() + 1)
        Control(theirs).send("here", {})
        with pytest.raises(RefusedError, match="sender"):
            link.receive("here")
    ours, theirs = socket.socketpair()
    with ours, theirs, Path("/dev/null").open("rb") as passed:
        link = RankLink(ours, os.getpid())
        Control(theirs).send_descriptors("shared", {}, [passed.fileno()])
        assert link.receive("shared") == ("shared", {})
        os.close(*link.descriptors(1))
