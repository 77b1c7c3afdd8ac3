"""The timed stretches of a leg, by the agent's clock: when each began and ended, what it did by then, and under what conditions.

The leg drains its messages, reads its clock and says so, at either end; by the agent's clock the reading lies between the two
messages. What kept them apart without the leg's doing is measured too: how long the kernel let leg and agent wait for a
processor. How much of one the leg used between, the kernel counts. Under what conditions the leg runs is read at either end,
and in between at moments that are drawn: a leg cannot know when to have them as they should be.
"""

from __future__ import annotations

import random
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.cpu_time import clock_ns
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire import evidence
from pytest_glasshouse.wire.canonical import Json, parse_object
from pytest_glasshouse.wire.guest_messages import MOST_CONDITIONS, MOST_TURNS
from pytest_glasshouse.wire.journal import PROGRESS
from pytest_glasshouse.wire.leg_messages import ProgressBody, RepeatedBody
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: In a stretch, conditions are read within the first of these times, and then each time within the second: at drawn moments.
_FIRST_LOOK_S, _LOOK_S = 0.2, 1.0
#: Fields of /proc/PID/stat, counted after the command's closing bracket.
_NICE, _POLICY = 16, 38


class StretchRecorder:
    """Times of one leg, whose training thread is `pid`. `drained` and `clock_read` take turns; every method is of one thread."""

    def __init__(self) -> None:
        self.pid = 0
        self._edges: list[int] = []
        self._rows: list[Json] = []
        self._conditions: list[dict[str, Json]] = []
        self._units = 0
        self._waited: int | None = None
        self._cpu: list[int] = []
        self._waits_at: list[int] = []
        self._waits: list[list[int]] = []
        self._cpu_ns: list[Json] = []
        self._repeats: list[Json] = []
        #: Processor time that its own thread spent on these readings: the agent's work, and none of the leg's.
        self.readings_ns = 0
        self._over = threading.Event()
        self._noting = threading.Lock()

    def note(self, kind: str, body: dict[str, Json]) -> None:
        """Take in a message of the leg: progress tells how many units it has done in all; warm, or its turn over, it waits."""
        said: Json = body
        if kind == "journal":
            entry = parse_object(str(body["line"]))
            kind, said = str(entry["type"]), entry["body"]
        if kind in ("progress", PROGRESS):
            self._units = check_typed(said, ProgressBody, kind)["units"]
        elif kind == "resident":
            with self._reading():
                self._waited = self._waited_ns()
        elif kind == "turn-done" and self._waits and self._waited is not None:
            # What it waited since its stretch ended was for handing over.
            with self._reading():
                self._waits[-1][1] = max(0, self._waited_ns() - self._waited)

    def drained(self) -> None:
        """The leg is about to read its clock: call this before it is answered."""
        self._require_due(0, 2)
        with self._reading():
            self._stop_watching()
            self._note_conditions()
            self._note_processor()
        if self._waited is None:
            self._waited = self._waits_at[-1]
        # Last: what is read of the leg takes milliseconds on a busy machine, and the leg reads its clock after the answer.
        self._edges.append(now_ns())

    def clock_read(self) -> None:
        """The leg has read its clock."""
        self._require_due(1, 3)
        self._edges.append(now_ns())
        with self._reading():
            self._note_processor()
            if len(self._edges) == 2:  # noqa: PLR2004
                self._over = threading.Event()
                threading.Thread(target=self._watch, args=(self._over,), name="conditions", daemon=True).start()
        if len(self._edges) == 4:  # noqa: PLR2004  (drained, read; drained, read)
            first, began_waits, ended_waits, waited = self._waits_at
            self._rows.append([*self._edges, self._units, max(0, waited - (self._waited or 0))])
            self._waits.append([max(0, began_waits - first + waited - ended_waits), 0])
            drained, began, ended, read = self._cpu
            # A leg that is gone by now has no clock left to read.
            self._cpu_ns.append([max(0, ended - began), max(0, read - drained)])
            self._edges, self._cpu, self._waits_at, self._waited = [], [], [], waited

    def repeated(self, body: dict[str, Json]) -> None:
        """The leg was asked to repeat its prologue's first steps, and tells their losses: now, and not when it is over."""
        losses: list[Json] = [*check_typed(body, RepeatedBody, "repeated")["losses"]]
        if self.timing or len(self._repeats) >= MOST_TURNS:
            raise ProtocolError("expected no repetition while a clock runs, and no more of them than turns")
        self._repeats.append({"after": len(self._rows), "losses": losses})

    def _stop_watching(self) -> None:
        """Read no more conditions: the stretch is over, or the leg has ended."""
        self._over.set()

    def _watch(self, over: threading.Event) -> None:
        drawn = random.SystemRandom()
        after_s = _FIRST_LOOK_S
        while not over.wait(drawn.uniform(0.0, after_s)):
            if conditions_of(self.pid):  # nothing, when the leg has just died
                self._note_conditions()
            after_s = _LOOK_S

    @property
    def timing(self) -> bool:
        """Whether a stretch has begun and not ended."""
        return bool(self._edges)

    def claims(self, nonce: str) -> dict[str, Json]:
        """What the agent signs of a leg's stretches."""
        self._stop_watching()
        waits: list[Json] = [[*each] for each in self._waits]
        return evidence.stretches_claims(
            nonce=nonce,
            stretches=self._rows,
            conditions=self._conditions,
            cpu_ns=self._cpu_ns,
            waits=waits,
            repeats=self._repeats,
        )

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Count what this thread spends within as a reading."""
        before = time.thread_time_ns()
        try:
            yield
        finally:
            self.readings_ns += time.thread_time_ns() - before

    def _require_due(self, *edges: int) -> None:
        if len(self._edges) not in edges or len(self._rows) >= MOST_TURNS:
            raise ProtocolError("expected the leg to drain, read its clock, and say so, at either end of a timed stretch")

    def _note_processor(self) -> None:
        """How much of a processor the leg used so far, and how long leg and agent waited for one."""
        self._cpu.append(clock_ns(self.pid))
        self._waits_at.append(self._waited_ns())

    def _note_conditions(self) -> None:
        found = conditions_of(self.pid)
        with self._noting:
            if found not in self._conditions and len(self._conditions) < MOST_CONDITIONS:
                self._conditions.append(found)

    def _waited_ns(self) -> int:
        """How long the leg's training thread and the threads of this process waited for a processor so far, in nanoseconds."""
        ours = sum(map(run_delay_ns, Path("/proc/self/task").iterdir()))
        return ours + run_delay_ns(Path(f"/proc/{self.pid}/task/{self.pid}"))


def run_delay_ns(task: Path) -> int:
    """How long a thread waited for a processor so far, as the kernel counts it; 0 where it does not, or the thread is gone."""
    try:
        return int((task / "schedstat").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def conditions_of(pid: int) -> dict[str, Json]:
    """Under what conditions the kernel runs a process's first thread: priority, processors, huge pages. Empty when it is gone.

    A leg reports the like of itself; this is read beside it, whenever it is timed.
    """
    proc = Path(f"/proc/{pid}")
    try:
        stat, lines = ((proc / name).read_text(encoding="utf-8", errors="replace") for name in ("stat", "status"))
    except OSError:
        return {}
    fields = stat.rpartition(")")[2].split()
    status = dict(line.partition(":")[::2] for line in lines.splitlines())
    return {
        "nice": int(fields[_NICE]),
        "policy": int(fields[_POLICY]),
        "processors": status.get("Cpus_allowed_list", "").strip()[:64],
        "hugePages": status.get("THP_enabled", "").strip()[:8],
    }
