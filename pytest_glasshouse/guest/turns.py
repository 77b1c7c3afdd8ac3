"""The leg's side of taking turns: it waits on its control socket, trains when it is told to, and says what it did.

Both legs use this one class. Waiting is a blocking read, so a paused leg uses no processor; draining is a question that
the agent answers when everything said before it is in the spool.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from pytest_glasshouse.guest.control import Control
    from pytest_glasshouse.guest.scribe import Scribe
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.workloads.segments import TrainedSegment


class ControlTurns:
    """Turns as the agent gives them. What the scribe still has to say is said before anything is drained."""

    def __init__(self, control: Control, scribe: Scribe) -> None:
        self._control = control
        self._scribe = scribe

    def resident(self, *, warmup_units: int, warmup_ns: int, steady: bool) -> None:
        self._control.tell("resident", {"warmup_units": warmup_units, "warmup_ns": warmup_ns, "steady": steady})

    def wait(self) -> int | None:
        kind, body = self._control.hear("turn", "finish")
        return cast("int", body["turn"]) if kind == "turn" else None

    def drain(self) -> None:
        self._scribe.drain()
        self._control.tell("drain", {})
        self._control.hear("drained")

    def done(self, segment: TrainedSegment) -> None:
        told: list[Json] = [*segment.to_json()]
        self._control.tell("turn-done", {"segment": told})
