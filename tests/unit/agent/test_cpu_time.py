"""Processor time of a leg is read from the kernel, whatever the leg does to look idle."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pytest_glasshouse.agent.cpu_time import _TICK_NS, CpuMeter, ProcessStatus, clock_ns, process_tree, processes
from pytest_glasshouse.agent.stretches import StretchRecorder
from tests.limits import until

MS = 1_000_000


@contextmanager
def _process(code: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process in a session of its own that prints a line when its work is done, and then waits."""
    script = f"import os, sys, time\n{code}\nprint('done', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def _wait_for_line(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "done\n"


_BURN = "until = time.process_time() + 0.03\nwhile time.process_time() < until: pass"


def test_process_that_waits_uses_nothing_and_one_that_works_is_seen() -> None:
    with _process(_BURN) as process:
        _wait_for_line(process)
        # It prints just before it waits.
        until(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "S", "a process that waits")
        meter = CpuMeter(root=process.pid)
        first = meter.read_ns(processes())
        assert first >= 30 * MS
        assert meter.read_ns(processes()) == first


def test_child_in_a_session_of_its_own_is_still_the_legs() -> None:
    """A daemon's work must be counted, too."""
    child = f"if os.fork() == 0:\n os.setsid()\n {_BURN.replace(chr(10), chr(10) + ' ')}\n print('done', flush=True); sys.stdin.read(); os._exit(0)\ntime.sleep(0)\nsys.stdin.read(); os.wait(); sys.exit()"
    with _process(child) as process:
        _wait_for_line(process)
        meter = CpuMeter(root=process.pid)
        parents = clock_ns(process.pid)  # read first: the parent may still be working
        assert meter.read_ns(processes()) >= parents + 30 * MS
        assert meter.processes == 2


def test_child_that_has_ended_is_counted_too() -> None:
    """The kernel counts it in whole ticks, in user and in system mode; the parent alone uses a fraction of that."""
    burn = _BURN.replace("0.03", "0.2").replace("\n", "\n ")
    with _process(f"if os.fork() == 0:\n {burn}\n os._exit(0)\nos.wait()") as process:
        _wait_for_line(process)
        parents = clock_ns(process.pid)
        assert CpuMeter(root=process.pid).read_ns(processes()) >= parents + 200 * MS - 2 * _TICK_NS


def test_agents_own_thread_counts_for_the_leg_it_serves() -> None:
    meter = CpuMeter(root=0, threads=(threading.get_ident(),))
    before = meter.read_ns({})
    until = time.thread_time_ns() + 5 * MS
    while time.thread_time_ns() < until:
        pass
    assert meter.read_ns({}) - before >= 5 * MS


def test_agents_readings_of_a_leg_are_none_of_the_legs_work() -> None:
    """On a busy machine they take longer than handing over does, and more in one leg's turns than in another's."""
    recorder = StretchRecorder()
    recorder.pid = os.getpid()
    all_of_it = CpuMeter(root=0, threads=(threading.get_ident(),))
    of_the_leg = CpuMeter(root=0, threads=(threading.get_ident(),), readings_ns=lambda: recorder.readings_ns)
    before = of_the_leg.read_ns({}), all_of_it.read_ns({})
    recorder.drained()
    recorder.clock_read()
    recorder.drained()
    recorder.clock_read()
    recorder.note("resident", {})
    recorder.note("turn-done", {})
    used, all_used = of_the_leg.read_ns({}) - before[0], all_of_it.read_ns({}) - before[1]
    assert 0 < used < all_used
    assert recorder.readings_ns > 0


def test_process_tree_is_the_session_and_all_its_descendants() -> None:
    def one(parent: int, session: int) -> ProcessStatus:
        return ProcessStatus(parent=parent, session=session, reaped_ticks=0)

    everyone = {1: one(0, 1), 10: one(1, 10), 11: one(10, 10), 12: one(11, 12), 13: one(12, 13), 20: one(1, 20)}
    assert process_tree(10, everyone) == {10, 11, 12, 13}


def test_process_that_is_gone_is_no_error() -> None:
    with _process("") as process:
        _wait_for_line(process)
    assert clock_ns(process.pid) == 0


def test_this_process_is_among_all(tmp_path: Path) -> None:
    assert processes()[os.getpid()].parent == os.getppid()
    assert processes(tmp_path) == {}
