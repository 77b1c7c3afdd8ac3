"""Processor time of other processes, as the kernel counts it: a leg's own figures are not used.

A process's clock is read to the nanosecond and includes its ended threads; reaped children are counted at the kernel's
tick. A leg is every process in its launcher's session or below the launcher, however deep; the launcher adopts orphans, so
what a leg starts stays below it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
#: Fields of /proc/PID/stat, counted after the command's closing bracket.
_PPID, _SESSION, _CUTIME, _CSTIME = 1, 3, 13, 14


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """One process, from /proc."""

    parent: int
    session: int
    reaped_ticks: int


def processes(proc: Path = Path("/proc")) -> dict[int, ProcessStatus]:
    """Every visible process, by its id."""
    found = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()
        found[int(entry.name)] = ProcessStatus(
            parent=int(fields[_PPID]),
            session=int(fields[_SESSION]),
            reaped_ticks=int(fields[_CUTIME]) + int(fields[_CSTIME]),
        )
    return found


def process_tree(root: int, running: dict[int, ProcessStatus]) -> set[int]:
    """`root`, its session, and all their descendants, among `running`."""
    members = {pid for pid, status in running.items() if root in {pid, status.session}}
    grown = True
    while grown:
        more = {pid for pid, status in running.items() if status.parent in members} - members
        members |= more
        grown = bool(more)
    return members


def clock_ns(pid: int) -> int:
    """The processor time of a live process, all its threads, in nanoseconds; 0 when it is gone."""
    try:
        return time.clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return 0


@dataclass(kw_only=True)
class CpuMeter:
    """Processor time of one leg: its processes, and the agent's threads that work for it, less their readings of it."""

    root: int
    threads: tuple[int, ...] = ()
    """Identifiers of threads of this very process."""
    readings_ns: Callable[[], int] = lambda: 0
    """What those threads spent so far on reading the leg's times and conditions: the agent's work, not the leg's."""
    _seen: set[int] = field(default_factory=set)

    def read_ns(self, running: dict[int, ProcessStatus]) -> int:
        """The total up to now. A process once counted stays the leg's, even when it leaves the session."""
        self._seen = (self._seen & running.keys()) | process_tree(self.root, running)
        own = sum(clock_ns(pid) for pid in self._seen)
        reaped = sum(running[pid].reaped_ticks for pid in self._seen if pid in running) * _TICK_NS
        serving = sum(time.clock_gettime_ns(time.pthread_getcpuclockid(thread)) for thread in self.threads)
        return own + reaped + serving - self.readings_ns()

    @property
    def processes(self) -> int:
        """Number of processes in the last reading."""
        return len(self._seen)
