"""The agent's account of a leg's timed stretches: the leg cannot leave out an end, and nothing in it is the leg's word but its units."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.agent.stretches import StretchRecorder, conditions_of, run_delay_ns
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.guest_messages import CLAIMS
from tests.limits import HANG_S, until

PROGRESS: dict[str, Any] = {"units": 7, "elapsed_ns": 1, "loss": "0.5"}


@pytest.fixture(name="recorder")
def a_recorder() -> StretchRecorder:
    recorder = StretchRecorder()
    recorder.pid = os.getpid()
    return recorder


def _stretch(recorder: StretchRecorder, kind: str = "progress", body: dict[str, Any] = PROGRESS) -> None:
    recorder.drained()
    recorder.clock_read()
    recorder.note(kind, body)
    recorder.drained()
    recorder.clock_read()


def test_a_stretch_has_the_agents_times_of_both_ends_and_the_units_reported_by_then(recorder: StretchRecorder) -> None:
    before = now_ns()
    _stretch(recorder)
    line = canonical({"body": PROGRESS | {"units": 9}, "prev": "0" * 64, "seq": 1, "t_us": 1, "type": "train_progress"}).decode()
    _stretch(recorder, "journal", {"line": line})
    claims: Any = recorder.claims("00")
    CLAIMS["stretches"].check(claims, "stretches")
    first, second = claims["stretches"]
    times = [before, *first[:4], *second[:4], now_ns()]
    assert times == sorted(times)
    assert (first[4], second[4]) == (7, 9)


class _Looking(StretchRecorder):
    """Keeps when it had looked at the leg's conditions."""

    def __init__(self) -> None:
        super().__init__()
        self.pid, self.looked_ns = os.getpid(), [0]

    def _note_conditions(self) -> None:
        super()._note_conditions()
        self.looked_ns.append(now_ns())


def test_a_look_at_the_leg_is_not_between_its_clocks_reading_and_the_agents() -> None:
    recorder = _Looking()
    recorder.drained()
    first = recorder.looked_ns[-1]
    recorder.clock_read()
    recorder.drained()
    last = recorder.looked_ns[-1]
    recorder.clock_read()
    claims: Any = recorder.claims("00")
    ((drained_ns, _, drained_again_ns, *_),) = claims["stretches"]
    assert drained_ns >= first
    assert drained_again_ns >= last


@pytest.mark.parametrize("order", ["r", "dd", "drr", "drdd", "drdrr"])
def test_an_end_that_is_left_out_ends_the_leg(order: str, recorder: StretchRecorder) -> None:
    def say() -> None:
        for each in order:
            (recorder.drained if each == "d" else recorder.clock_read)()

    with pytest.raises(ProtocolError, match="drain, read its clock, and say so"):
        say()


def test_conditions_are_those_of_the_kernel_and_every_change_is_kept() -> None:
    """The leg here is another process, whose priority is changed between two stretches."""
    leg = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        recorder = StretchRecorder()
        recorder.pid = leg.pid
        _stretch(recorder)
        os.setpriority(os.PRIO_PROCESS, leg.pid, os.getpriority(os.PRIO_PROCESS, leg.pid) + 3)
        os.sched_setaffinity(leg.pid, {max(os.sched_getaffinity(0))})
        _stretch(recorder)
        _stretch(recorder)
    finally:
        leg.communicate(b"\n", timeout=HANG_S)
    claims: Any = recorder.claims("00")
    before, after = claims["conditions"]
    assert after["nice"] == before["nice"] + 3
    assert after["processors"] == str(max(os.sched_getaffinity(0)))


def test_conditions_are_read_within_a_stretch_at_moments_that_are_drawn() -> None:
    """A leg that is niced while its clock runs, and as before at both ends of it."""
    leg = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        recorder = StretchRecorder()
        recorder.pid = leg.pid
        before = os.getpriority(os.PRIO_PROCESS, leg.pid)
        recorder.drained()
        recorder.clock_read()
        os.setpriority(os.PRIO_PROCESS, leg.pid, before + 3)
        until(lambda: len(recorder._conditions) > 1, "the conditions within the stretch")
        os.setpriority(os.PRIO_PROCESS, leg.pid, before)
        recorder.drained()
        recorder.clock_read()
    finally:
        leg.communicate(b"\n", timeout=HANG_S)
    claims: Any = recorder.claims("00")
    assert [each["nice"] for each in claims["conditions"]] == [before, before + 3]


def test_the_processor_time_of_a_stretch_is_what_the_kernel_counts(recorder: StretchRecorder) -> None:
    """Read outside and inside of the leg's own readings, so that what a leg reports lies between."""
    recorder.drained()
    first = time.process_time_ns()
    recorder.clock_read()
    sum(range(100_000))
    recorder.drained()
    used = time.process_time_ns() - first
    recorder.clock_read()
    claims: Any = recorder.claims("00")
    ((least, most),) = claims["cpuNs"]
    assert 0 < least <= used <= most


@pytest.mark.parametrize("kind", ["drained", "clock_read", "resident", "turn-done"])
def test_each_reading_is_counted_as_one(kind: str, recorder: StretchRecorder) -> None:
    """What the agent's thread spends on it is not taken for the leg's."""
    if kind in ("clock_read", "turn-done"):
        recorder.drained()
    if kind == "turn-done":
        recorder.clock_read()
        recorder.drained()
        recorder.clock_read()
    before = recorder.readings_ns
    acts = {"drained": recorder.drained, "clock_read": recorder.clock_read}
    acts[kind]() if kind in acts else recorder.note(kind, {})
    assert recorder.readings_ns > before


def test_a_process_that_is_gone_has_no_conditions_and_no_delay() -> None:
    assert conditions_of(2**22 + 1) == {}
    assert run_delay_ns(Path(f"/proc/{2**22 + 1}/task/1")) == 0
