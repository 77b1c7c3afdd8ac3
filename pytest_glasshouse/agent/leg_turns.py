"""What a leg waits for between its stretches: its turn, the end, or the first steps of its prologue once more."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from pytest_glasshouse.agent.prologue_repeats import drawn_steps
from pytest_glasshouse.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.agent.stretches import StretchRecorder
    from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
    from pytest_glasshouse.wire.canonical import Json

    Send = Callable[[str, dict[str, int]], None]


class LegTurns:
    """Commands for one leg: of its `scheduler` in an interleaved round, else of the agent alone. `send` sends one to the leg."""

    def __init__(self, scheduler: TurnScheduler | None, role: str, stretches: StretchRecorder) -> None:
        self._scheduler, self._role, self._stretches = scheduler, role, stretches
        self._commands: queue.Queue[tuple[str, int]] = queue.Queue()
        self._repeating = False

    def command(self, kind: str, number: int) -> None:
        """Queue `turn`, `repeat` or `finish` for the leg, or `ended`: it is gone."""
        self._commands.put((kind, number))

    def await_command(self, send: Send) -> None:
        """Wait for the next command, and pass it on."""
        if self._scheduler is None:
            raise ProtocolError("expected no turn of a leg outside an interleaved round")
        self._scheduler.leg_waiting(self._role)
        command, number = self._commands.get()
        if command == "ended":
            raise ProtocolError("the leg was ended while it waited for its turn")
        self._repeating = command == "repeat"
        send(command, {"steps" if self._repeating else "turn": number})

    def warm(self, send: Send) -> None:
        """A leg that trains in one go has one border before its clock runs."""
        if self._scheduler is not None:
            raise ProtocolError("expected no 'warm' from a leg that takes turns")
        self._repeating = True
        send("repeat", {"steps": drawn_steps()})

    def repeated(self, send: Send, body: dict[str, Json]) -> None:
        """The leg has repeated what it was asked to."""
        if not self._repeating:
            raise ProtocolError("expected no repetition of the prologue: none was asked for")
        self._repeating = False
        self._stretches.repeated(body)
        if self._scheduler is None:
            send("go", {})
        else:
            self.await_command(send)
