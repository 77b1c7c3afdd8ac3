"""The launcher of legs: imports what a workload trains with, once, and forks each leg from that.

It is forked itself from a process that was hardened first, so it and all its legs are non-dumpable from their first instruction.
It has one thread, opens no device, gets no order, key or message of a leg, and ends with its agent. The agent measures it after
its imports and again before each leg. It passes a leg's descriptors on without reading them.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest import antidebug, loaded_code
from pytest_glasshouse.guest.control import Control
from pytest_glasshouse.guest.launcher import die_with_parent, lead_leg, wait_for
from pytest_glasshouse.guest.leg_main import BROKEN, run_leg
from pytest_glasshouse.guest.scan_client import MemoryWindow
from pytest_glasshouse.guest.training import hide_unneeded, import_modules
from pytest_glasshouse.wire.leg_messages import LegStart, LoadedLauncher, ReadRequest
from pytest_glasshouse.wire.typed import check_typed
from pytest_glasshouse.workloads.cuda import refuses_forks

#: Above the descriptors that a leg is given: their numbers are the agent's own.
_HIGH = 512
_STANDARD = {0, 1, 2}
_PID_DIGITS = 20


def serve_legs(control_fd: int, workload: str) -> int:
    """Import what `workload` needs (nothing where it is empty), then fork legs until the agent is gone."""
    hide_unneeded()
    before = _open_descriptors()
    control = Control(socket.socket(fileno=fcntl.fcntl(control_fd, fcntl.F_DUPFD_CLOEXEC, _HIGH)))
    os.close(control_fd)
    if workload:
        import_modules(workload)
    # What was imported is never freed: without it, a leg's collections read and copy less.
    gc.collect()
    gc.freeze()
    _Launcher(control, before - {control_fd}).serve()
    return 0


class _Launcher:
    def __init__(self, control: Control, own: set[int]) -> None:
        self._control = control
        self._own = own
        self._window: MemoryWindow | None = None

    def serve(self) -> None:
        """Answer the agent until it closes the socket."""
        self._control.send("ready", self._state())
        while True:
            try:
                kind, body = self._control.receive("look", "start", "reap", "memory", "read")
            except ProtocolError:
                return
            if kind == "look":
                self._close_window()
                self._control.send("ready", self._state())
            elif kind == "start":
                self._start(check_typed(body, LegStart, "start"))
            elif kind == "reap":
                status = os.waitstatus_to_exitcode(os.waitpid(check_typed(body.get("pid"), int, "reap.pid"), 0)[1])
                self._control.send("reaped", {"status": status})
            elif kind == "memory":
                self._close_window()
                self._window = MemoryWindow(self._control)
            elif self._window is not None:
                self._window.serve(check_typed(body, ReadRequest, "read"))

    def _state(self) -> LoadedLauncher:
        return {"images": loaded_code.collect(), "tracer": antidebug.tracer(), "unfit": self._unfit()}

    def _unfit(self) -> str:
        """Why legs may not be forked from this process; empty where they may."""
        threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208
        if threads != 1:
            return f"it has {threads} threads"
        more = _open_descriptors() - self._own - {self._control.fileno()}
        if more:
            names = sorted({_name_of(descriptor) for descriptor in more})
            return f"its imports opened {', '.join(names)}"
        return "torch refuses CUDA to its children" if refuses_forks() else ""

    def _close_window(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None

    def _start(self, start: LegStart) -> None:
        descriptors = self._control.descriptors(len(start["descriptors"]))
        reading, writing = os.pipe()
        leader = os.fork()
        if leader == 0:
            with contextlib.suppress(Exception):
                os.close(reading)
                self._control.close()
                _lead(start, descriptors, writing)
            os._exit(BROKEN)
        for descriptor in (*descriptors, writing):
            os.close(descriptor)
        # One read: a leg that is stopped at once still holds its copy of the other end.
        leg = int(os.read(reading, _PID_DIGITS) or 0)
        os.close(reading)
        self._control.send("started", {"leader": leader, "leg": leg})


def _lead(start: LegStart, descriptors: Sequence[int], writing: int) -> NoReturn:
    """In the leader of a leg's session: fork the leg, name it, and wait for it."""
    high = fcntl.fcntl(writing, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    os.close(writing)
    _place(descriptors, start["descriptors"])
    lead_leg(start["network"])
    os.chdir(start["directory"])
    os.environ.update(start["environment"])
    leg = os.fork()
    if leg == 0:
        die_with_parent()
        os.close(high)
        _forget()
        # Without the interpreter's own clean-up: nothing is left to flush, and the kernel takes the memory back at once.
        os._exit(run_leg(start["control"]))
    os.write(high, str(leg).encode())
    os.close(high)
    wait_for(leg)


def _place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give each descriptor the number that it has in the agent, by which messages to the leg name it."""
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _HIGH) for descriptor in descriptors]
    for descriptor in descriptors:
        os.close(descriptor)
    for descriptor, number in zip(high, numbers, strict=True):
        os.dup2(descriptor, number, inheritable=False)
        os.close(descriptor)


def _forget() -> None:
    """Drop what legs of one launcher may not share. Python and OpenSSL draw their random state anew by themselves."""
    tempfile.tempdir = None
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()


def _open_descriptors() -> set[int]:
    """The open descriptors of this process, without the one that lists them."""
    names = os.listdir("/proc/self/fd")  # noqa: PTH208
    return {int(name) for name in names if _is_open(int(name))} - _STANDARD


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _name_of(descriptor: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return "a descriptor"
