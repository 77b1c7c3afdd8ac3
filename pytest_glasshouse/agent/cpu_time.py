"""Processor time of other processes, as the kernel counts it: nothing here is a leg's own word.

A process's clock is read to the nanosecond and includes its ended threads; children that were waited for come in at the
kernel's tick. A leg is everything in its launcher's session or below the launcher, however deep; the launcher adopts
orphans, so what a leg starts stays below it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
#: Fields of /proc/PID/stat, counted behind the command's closing bracket.
_PPID, _SESSION, _CUTIME, _CSTIME = 1, 3, 13, 14


@dataclass(frozen=True, kw_only=True)
class ProcessStatus:
    """One process as /proc tells of it."""

    parent: int
    session: int
    reaped_ticks: int


def processes(proc: Path = Path("/proc")) -> dict[int, ProcessStatus]:
    """Every process there is to be seen."""
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


def family(root: int, everyone: dict[int, ProcessStatus]) -> set[int]:
    """`root`, its session, and all their descendants."""
    members = {pid for pid, status in everyone.items() if root in {pid, status.session}}
    grown = True
    while grown:
        more = {pid for pid, status in everyone.items() if status.parent in members} - members
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
class Meter:
    """Processor time of one leg: its processes, and the agent's threads that work for it."""

    root: int
    threads: tuple[int, ...] = ()
    """Identifiers of threads of this very process."""
    _seen: set[int] = field(default_factory=set)

    def read_ns(self, everyone: dict[int, ProcessStatus]) -> int:
        """All of it up to now. A process that was this leg's once stays so, wherever it went."""
        self._seen = (self._seen & everyone.keys()) | family(self.root, everyone)
        own = sum(clock_ns(pid) for pid in self._seen)
        reaped = sum(everyone[pid].reaped_ticks for pid in self._seen if pid in everyone) * _TICK_NS
        return own + reaped + sum(time.clock_gettime_ns(time.pthread_getcpuclockid(thread)) for thread in self.threads)

    @property
    def processes(self) -> int:
        """How many processes the last reading found."""
        return len(self._seen)
