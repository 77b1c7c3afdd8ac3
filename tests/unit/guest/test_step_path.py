"""System calls on the path of a step, counted by a tracer: protection adds none to those of the training thread.

A leg's loop runs in a child whose training thread alone is traced, with the writer, journal and control socket of a real leg and
a clock that advances by the step, so that progress is reported every hundred of them. The difference between twice the steps and once leaves what
steps cost, without the start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any, cast

from pytest_glasshouse.guest.control import BackgroundWriter, Control
from pytest_glasshouse.wire.journal import Journal
from pytest_glasshouse.workloads.base import Trainer
from pytest_glasshouse.workloads.loop import measure

_PTRACE_TRACEME, _PTRACE_SYSCALL = 0, 24
STEPS, STEP_NS = 20_000, 10_000_000
Report = Callable[[Control, BackgroundWriter, Journal, dict[str, Any]], None]


class Steps:
    """A trainer without system calls, and its clock."""

    now_ns = 0

    def step(self) -> None:
        self.now_ns += STEP_NS

    def synchronize(self) -> None: ...

    def check(self) -> str:
        return "0.5"


def _as_a_raw_leg(control: Control, writer: BackgroundWriter, journal: Journal, body: dict[str, Any]) -> None:
    del journal
    writer.submit(lambda: control.send("progress", body))


def _as_a_protected_leg(control: Control, writer: BackgroundWriter, journal: Journal, body: dict[str, Any]) -> None:
    del control
    writer.submit(lambda: journal.append("train_progress", body))


def _on_the_training_thread(control: Control, writer: BackgroundWriter, journal: Journal, body: dict[str, Any]) -> None:
    """Sends on the training thread: the control of this test."""
    del control, writer
    journal.append("train_progress", body)


def _leg(connection: socket.socket, report: Report, steps: int) -> None:
    control, writer = Control(connection), BackgroundWriter()
    journal = Journal("0" * 64, lambda line: control.send("journal", {"line": line}), lambda: 0)
    journal.append("session_started", {"wall": "2026-11-21T00:00:00Z"})
    trainer = Steps()

    def on_progress(units: int, elapsed_ns: int, loss: str) -> None:
        report(control, writer, journal, {"units": units, "elapsed_ns": elapsed_ns, "loss": loss})

    measure(
        cast("Trainer", trainer), warmup_s=0.1, steps=steps, on_progress=on_progress, drain=writer.drain,
        clock_ns=lambda: trainer.now_ns, cpu_ns=lambda: 0,
    )  # fmt: skip
    writer.close()


def _system_calls(report: Report, steps: int) -> int:
    """System calls of the training thread, from its start to its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        sys.setswitchinterval(60.0)  # who has the interpreter is no question of system calls here
        libc.ptrace(_PTRACE_TRACEME, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        _leg(theirs, report, steps)
        os._exit(0)
    theirs.close()
    reader = threading.Thread(target=lambda: all(iter(lambda: ours.recv(1 << 16), b"")))
    reader.start()
    stops, status = 0, os.waitpid(pid, 0)[1]
    while os.WIFSTOPPED(status):
        passed = 0 if os.WSTOPSIG(status) in (signal.SIGTRAP, signal.SIGSTOP) else os.WSTOPSIG(status)
        assert libc.ptrace(_PTRACE_SYSCALL, pid, 0, passed) == 0
        status = os.waitpid(pid, 0)[1]
        stops += 1
    reader.join()
    ours.close()
    assert os.waitstatus_to_exitcode(status) == 0
    return stops // 2


def _per_step(report: Report) -> float:
    return (_system_calls(report, 2 * STEPS) - _system_calls(report, STEPS)) / STEPS


def test_protection_adds_no_system_call_to_a_step() -> None:
    raw, protected, careless = map(_per_step, (_as_a_raw_leg, _as_a_protected_leg, _on_the_training_thread))
    print(f"system calls a step: raw {raw:.4f}, protected {protected:.4f}, reported on the training thread {careless:.4f}")  # noqa: T201
    assert protected <= raw + 0.001
    assert careless > protected + 0.001
