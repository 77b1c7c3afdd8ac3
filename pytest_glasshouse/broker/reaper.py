"""Starts and dismisses the reaper: the process that ends a run's allocations where the run cannot.

Its arguments are the ledger's path and its time limits. It gets the provider's key as the run got it, from the environment or the
user's own files, and never from an argument or a file that the run writes.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.errors import InfrastructureError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_glasshouse.broker.timing import Timing

_READY_S = 60.0
_GONE_S = 30.0
LOG = "reaper.log"


class ReaperLike(Protocol):
    """The reaper: a process that outlives the run."""

    def dismiss(self, *, wait: bool) -> None:
        """Let it read the ledger now; it exits once every allocation in it is proven to be gone."""
        ...


class Reaper:
    """A running reaper. It waits for the end of a pipe that only this process holds open."""

    def __init__(self, pid: int, pipe: int) -> None:
        self.pid = pid
        self._pipe: int | None = pipe

    @classmethod
    def start(
        cls, ledger: Path, *, timing: Timing | None, allow_simulated: bool, environment: Mapping[str, str] | None = None
    ) -> Reaper:
        """Start it in a session of its own and wait until it is ready. Raises `InfrastructureError`; nothing exists then.

        `environment` is added to this process's: it says which machines of the user's own to look at.
        """
        ledger.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        read, write = os.pipe()
        ready_read, ready_write = os.pipe()
        log = os.open(ledger.parent / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        arguments = [sys.executable, "-m", "pytest_glasshouse.broker.reaper_process", str(ledger)]
        arguments += ["--allow-simulated"] if allow_simulated else []
        if timing is not None:
            arguments += ["--timing", timing.to_json()]
        try:
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                {**os.environ, **(environment or {})},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, read, 0),
                    (os.POSIX_SPAWN_DUP2, ready_write, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
        finally:
            for descriptor in (read, ready_write, log):
                os.close(descriptor)
        try:
            ready, _, _ = select.select([ready_read], [], [], _READY_S)
            if not ready or os.read(ready_read, 1) != b"+":
                os.close(write)
                raise InfrastructureError(
                    "the reaper that outlives this run did not start; nothing was rented. Its log is beside the run's ledger"
                )
        finally:
            os.close(ready_read)
        return cls(pid, write)

    def dismiss(self, *, wait: bool) -> None:
        """Let it read the ledger now: it exits once everything in it is proven to be gone, and goes on by itself until then."""
        if self._pipe is None:
            return
        os.close(self._pipe)
        self._pipe = None
        until = time.monotonic() + _GONE_S
        while wait and time.monotonic() < until:
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(self.pid, os.WNOHANG) == (0, 0):
                    time.sleep(0.02)
                    continue
            return
