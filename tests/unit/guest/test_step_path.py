"""System calls on the path of a step, counted by a tracer: protection adds none to those of the training thread.

A leg's loop runs in a process whose training thread alone is traced. The difference between twice the steps and once leaves
what steps cost, without the start.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

_PTRACE_SYSCALL = 24
STEPS = 20_000


def _system_calls(report: str, steps: int) -> int:
    """System calls of the training thread, from its start to its end."""
    libc = ctypes.CDLL(None, use_errno=True)
    ours, theirs = socket.socketpair()
    command = [sys.executable, str(Path(__file__).with_name("traced_leg.py")), report, str(steps), str(theirs.fileno())]
    with subprocess.Popen(command, pass_fds=(theirs.fileno(),)) as leg, ours:
        theirs.close()
        reader = threading.Thread(target=lambda: all(iter(lambda: ours.recv(1 << 16), b"")))
        reader.start()
        stops, status = 0, os.waitpid(leg.pid, os.WUNTRACED)[1]
        while os.WIFSTOPPED(status):
            passed = 0 if os.WSTOPSIG(status) in (signal.SIGTRAP, signal.SIGSTOP) else os.WSTOPSIG(status)
            assert libc.ptrace(_PTRACE_SYSCALL, leg.pid, 0, passed) == 0
            status = os.waitpid(leg.pid, 0)[1]
            stops += 1
        leg.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
    assert leg.returncode == 0
    return stops // 2


def _per_step(report: str) -> float:
    return (_system_calls(report, 2 * STEPS) - _system_calls(report, STEPS)) / STEPS


def test_protection_adds_no_system_call_to_a_step() -> None:
    raw, protected, careless = map(_per_step, ("raw", "protected", "careless"))
    print(f"system calls a step: raw {raw:.4f}, protected {protected:.4f}, reported on the training thread {careless:.4f}")  # noqa: T201
    assert protected <= raw + 0.001
    assert careless > protected + 0.001
