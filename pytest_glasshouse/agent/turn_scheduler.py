"""Gives the legs of one round their turns, one at a time, and reads each leg's processor time at both ends of a turn.

The order of turns was drawn before; the host judges the readings. It runs in a thread of its own: no leg trains while it
reads, and no leg's time includes it. Between turns it has the attestation server sign its time (`agent.border_marks`).
"""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from pytest_glasshouse.agent.border_marks import BorderMarks
from pytest_glasshouse.agent.cpu_time import CpuMeter, processes
from pytest_glasshouse.agent.prologue_repeats import drawn_steps, drawn_turns
from pytest_glasshouse.errors import GlasshouseError, ProtocolError
from pytest_glasshouse.guest.clock import now_ns
from pytest_glasshouse.wire import evidence, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from pytest_glasshouse.agent.spool import Spool
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.host_messages import AnswerBody


class ScheduledLeg(Protocol):
    """One leg as the scheduler uses it."""

    def command(self, kind: str, number: int) -> None:
        """Have the leg's own thread send it `turn` (which), `repeat` (how many steps) or `finish`."""

    @property
    def ranks(self) -> Sequence[ScheduledRank]:
        """Its ranks: most legs have one."""


class ScheduledRank(Protocol):
    """One rank of a leg, whose processor time is the leg's."""

    @property
    def process_group(self) -> int:
        """The launcher's process id."""

    @property
    def thread(self) -> int:
        """The identifier of the agent's thread that serves this rank."""

    def readings_ns(self) -> int:
        """Processor time that this thread spent on reading the rank's times and conditions, in nanoseconds."""


@dataclass(frozen=True, kw_only=True)
class LegEvent:
    """A leg is waiting (warm, or its turn over), or has ended."""

    role: str
    kind: Literal["waiting", "ended"]


@dataclass(frozen=True, kw_only=True)
class HostAnswer:
    """What the host answered to an event of the turns."""

    kind: str
    body: AnswerBody


class TurnScheduler(threading.Thread):
    """One interleaved round. `turns` names the leg of each turn; `roles` is in the order in which the legs start."""

    def __init__(
        self,
        *,
        name: str,
        nonce: str,
        roles: Sequence[str],
        turns: Sequence[str],
        key: Ed25519PrivateKey,
        spool: Spool,
        witness: str | None = None,
    ) -> None:
        """`witness` is the key of the server whose marks are wanted between turns."""
        if not set(turns) <= set(roles) or len(set(roles)) != len(roles):
            raise ProtocolError(
                f"conduct: expected distinct legs and only their turns; saw legs {roles}, turns of {sorted(set(turns))}"
            )
        super().__init__(name=f"turns-{name}", daemon=True)
        self._label = name
        self._nonce = nonce
        self.roles = tuple(roles)
        self._turns = tuple(turns)
        self._key = key
        self._spool = spool
        self._leg_events: queue.Queue[LegEvent | HostAnswer] = queue.Queue()
        self._marks = BorderMarks(witness, nonce=nonce, label=name, spool=spool, answer=self._next_answer)
        self._legs: dict[str, ScheduledLeg] = {}
        self._meters: dict[str, list[CpuMeter]] = {}
        self._waiting: set[str] = set()
        self._ended: set[str] = set()
        self._borders: list[Json] = []
        self._repeats: list[Json] = []

    def add_leg(self, role: str, leg: ScheduledLeg) -> None:
        """A leg of this round begins."""
        if role not in self.roles or role in self._legs:
            raise ProtocolError(f"conduct: expected each of the legs {self.roles} once; saw {role!r}")
        self._legs[role] = leg

    def leg_waiting(self, role: str) -> None:
        """A leg is warm, or its turn is over; it now waits."""
        self._leg_events.put(LegEvent(role=role, kind="waiting"))

    def leg_ended(self, role: str) -> None:
        """A leg has ended, in whatever way."""
        self._leg_events.put(LegEvent(role=role, kind="ended"))

    def answer(self, kind: str, body: AnswerBody) -> None:
        """The host's answer to an event of the turns: a mark, or that there is none."""
        self._leg_events.put(HostAnswer(kind=kind, body=body))

    def dismiss(self) -> None:
        """No more legs will start: those that wait shall finish."""
        self._leg_events.put(LegEvent(role="", kind="ended"))

    def run(self) -> None:
        """The thread's body."""
        if self._all_waiting():
            self._meters = {
                role: [
                    CpuMeter(root=rank.process_group, threads=(rank.thread,), readings_ns=rank.readings_ns) for rank in leg.ranks
                ]
                for role, leg in self._legs.items()
            }
            self._run_turns()
        claims = evidence.borders_claims(
            nonce=self._nonce, roles=self.roles, turns=self._turns, borders=self._borders, repeats=self._repeats
        )
        token = tokens.sign(claims, key=self._key, typ=evidence.TYP_BORDERS)
        self._spool.append(self._label, "borders", {"borders": token})
        self._marks.write(self._key)
        # The last to start finishes first: its device memory is free before the other leg's end is observed.
        for role in reversed(self.roles):
            if role in self._legs:
                self._finish(role)

    def _all_waiting(self) -> bool:
        """Wait until every leg is warm; False when one ended, or will not start."""
        while self._waiting != set(self.roles):
            if self._next_leg_event().kind == "ended":
                return False
        return True

    def _run_turns(self) -> None:
        """Every turn, until one is not completed."""
        repeating, steps = drawn_turns(self._turns), drawn_steps()
        for number, role in enumerate(self._turns, 1):
            if number in repeating:
                if (borders := self._between_borders(role, "repeat", steps)) is None:
                    return
                self._repeats.append({"turn": number, "borders": borders})
            if not self._cross_border():
                return
            if (borders := self._between_borders(role, "turn", number)) is None:
                return
            self._borders.append(borders)
            self._spool.append(self._label, "turn", {"turn": number, "turns": len(self._turns), "leg": role})
        self._cross_border()

    def _between_borders(self, role: str, kind: str, number: int) -> list[Json] | None:
        """Have a leg do something; the readings before and after it. None where it ended, or another one did."""
        before = self._read_cpu()
        self._command(role, kind, number)
        event = self._next_leg_event()
        after = self._read_cpu()
        return [before, after] if event == LegEvent(role=role, kind="waiting") else None

    def _cross_border(self) -> bool:
        """Have the server sign its time; whether the turns can go on."""
        try:
            self._marks.cross()
        except GlasshouseError:
            return False  # the host knows why there is no mark, and ends the row
        return not self._ended

    def _next_answer(self) -> tuple[str, AnswerBody]:
        """What the host answers; legs that end meanwhile are noted."""
        while True:
            event = self._leg_events.get()
            if isinstance(event, HostAnswer):
                return event.kind, event.body
            self._note(event)
            if self._ended >= set(self._legs):
                raise ProtocolError("every leg has ended")

    def _finish(self, role: str) -> None:
        while role not in self._waiting | self._ended:
            self._next_leg_event()
        if role in self._waiting:
            self._command(role, "finish", 0)
        while role not in self._ended:
            self._next_leg_event()

    def _command(self, role: str, kind: str, number: int) -> None:
        self._waiting.discard(role)
        self._legs[role].command(kind, number)

    def _next_leg_event(self) -> LegEvent:
        while isinstance(event := self._leg_events.get(), HostAnswer):
            pass  # nothing was asked
        self._note(event)
        return event

    def _note(self, event: LegEvent) -> None:
        if event.kind == "waiting":
            self._waiting.add(event.role)
        else:
            self._waiting.discard(event.role)
            self._ended.add(event.role)

    def _read_cpu(self) -> list[Json]:
        """The time, then each leg's processor time and number of processes, in the order of `roles`."""
        running = processes()
        reading: list[Json] = [now_ns()]
        for role in self.roles:
            meters = self._meters[role]
            reading += [sum(meter.read_ns(running) for meter in meters), sum(meter.processes for meter in meters)]
        return reading
