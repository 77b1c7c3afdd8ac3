"""What a leg's own thread tells it at a border: its turn, that it is to repeat its prologue's first steps, or to go on.

A leg that takes turns is told by the scheduler of its round, which this thread waits for; one that trains in one go has one
border, before its clock runs.
"""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.prologue_repeats import drawn_steps
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.guest_messages import check_event

if TYPE_CHECKING:
    from pytest_glasshouse.agent.spool import Spool
    from pytest_glasshouse.agent.stretches import StretchRecorder
    from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
    from pytest_glasshouse.wire.canonical import Json


class LegTurns:
    """The borders of one leg, which has this `role` in the round of a `scheduler`, if it has one.

    Every method but `command` is of the leg's thread; those that take a message return the one to answer with, kind and body.
    """

    def __init__(
        self, scheduler: TurnScheduler | None, *, role: str, label: str, spool: Spool, stretches: StretchRecorder
    ) -> None:
        self.scheduler = scheduler
        self._role = role
        self._label = label
        self._spool = spool
        self._stretches = stretches
        self._commands: queue.Queue[tuple[str, int]] = queue.Queue()
        self._repeating = False

    def command(self, kind: str, number: int) -> None:
        """Have the leg told `turn` (which), `repeat` (how many steps) or `finish`; `ended` ends the wait."""
        self._commands.put((kind, number))

    def ended(self) -> None:
        """The leg has ended."""
        if self.scheduler is not None:
            self.scheduler.leg_ended(self._role)

    def on_turn(self, kind: str, body: dict[str, Json]) -> tuple[str, dict[str, Json]]:
        """The leg waits for its turn, and this thread with it: it has nothing else to do."""
        if self.scheduler is None:
            raise ProtocolError(f"expected no {kind!r} from a leg outside an interleaved round")
        if kind == "resident":
            check_event(kind, body)
            self._spool.append(self._label, kind, body)
        self._stretches.note(kind, body)
        return self._next_command(self.scheduler)

    def on_warm(self) -> tuple[str, dict[str, Json]]:
        """A leg that trains in one go is about to be timed."""
        if self.scheduler is not None:
            raise ProtocolError("expected no 'warm' from a leg that takes turns")
        self._repeating = True
        return "repeat", {"steps": drawn_steps()}

    def on_repeated(self, body: dict[str, Json]) -> tuple[str, dict[str, Json]]:
        """The leg has repeated what it was asked to."""
        if not self._repeating:
            raise ProtocolError("expected no repetition of the prologue: none was asked for")
        self._repeating = False
        self._stretches.repeated(body)
        return ("go", {}) if self.scheduler is None else self._next_command(self.scheduler)

    def _next_command(self, scheduler: TurnScheduler) -> tuple[str, dict[str, Json]]:
        scheduler.leg_waiting(self._role)
        command, number = self._commands.get()
        if command == "ended":
            raise ProtocolError("the leg was ended while it waited for its turn")
        self._repeating = command == "repeat"
        return command, {"steps" if self._repeating else "turn": number}
