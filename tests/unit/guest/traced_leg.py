"""A leg's loop without a trainer's work, in a process that its parent traces: `traced_leg.py REPORT STEPS FD`.

The training thread has the writer, journal and control socket of a real leg, and a clock that advances by the step, so that
progress is reported every hundred of them. It stops before its first step, until its tracer lets it go on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, cast

from pytest_glasshouse.guest.control import BackgroundWriter, Control
from pytest_glasshouse.wire.journal import Journal
from pytest_glasshouse.workloads.base import Trainer
from pytest_glasshouse.workloads.loop import measure

_PTRACE_TRACEME = 0
_STEP_NS = 10_000_000

Report = Callable[[Control, BackgroundWriter, Journal, dict[str, Any]], None]


class Edges:
    """Drains the writer, and tells nobody."""

    def __init__(self, writer: BackgroundWriter) -> None:
        self.drain = writer.drain

    def warmed_up(self) -> None: ...

    def clock_read(self) -> None: ...


class Steps:
    """A trainer without system calls, and its clock."""

    now_ns = 0

    def step(self) -> None:
        self.now_ns += _STEP_NS

    def synchronize(self) -> None: ...

    def check(self) -> str:
        return "0.5"

    def sample_sha256(self) -> str:
        return f"{self.now_ns:064x}"


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
        cast("Trainer", trainer), warmup_s=0.1, steps=steps, on_progress=on_progress, edges=Edges(writer),
        clock_ns=lambda: trainer.now_ns, cpu_ns=lambda: 0,
    )  # fmt: skip
    writer.close()


_REPORTS: dict[str, Report] = {
    "raw": _as_a_raw_leg,
    "protected": _as_a_protected_leg,
    "careless": _on_the_training_thread,
}


def main(report: str, steps: str, fd: str) -> None:
    """Stop, then run the loop."""
    sys.setswitchinterval(60.0)  # who has the interpreter is no question of system calls here
    connection = socket.socket(fileno=int(fd))
    ctypes.CDLL(None).ptrace(_PTRACE_TRACEME, 0, 0, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
    _leg(connection, _REPORTS[report], int(steps))
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
