"""Following one leg through the spool until its agent has signed its exit, or a deadline, or the guest is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.channel.guest_channel import Channel, follow
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, ProtocolError
from pytest_glasshouse.legs.progress import Progress
from pytest_glasshouse.wire.canonical import parse_strict
from pytest_glasshouse.wire.elapsed import since_boot_ns
from pytest_glasshouse.wire.guest_messages import EVENTS_OF, REPEATABLE_EVENTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.wire.canonical import Json

#: The phase a journal line or event announces.
_PHASES = {
    "spawned": "start",
    "challenge-wanted": "attest",
    "key_received": "open",
    "package_verified": "load",
    "train_started": "train",
    "started": "train",
    "train_completed": "export",
    "adapter_exported": "zeroize",
    "zeroized": "exit",
    "callback": "exit",
    "resident": "wait",
}


#: What a guest gets beyond a leg's deadline to answer the question that is under way, and to kill the leg.
_GRACE_S = 5.0


class LegDeadlineError(InfrastructureError):
    """A leg did not end in time. `obeyed` says whether its agent said that it killed it."""

    def __init__(self, message: str, *, obeyed: bool) -> None:
        super().__init__(message)
        self.obeyed = obeyed


class LegWatch:
    """One leg's events, sorted as they come in. `on_event(type, body)` may answer the leg."""

    def __init__(
        self,
        channel: Channel,
        *,
        leg_id: str,
        leg: str,
        timeout_s: float,
        target_s: float | None,
        steps: int | None,
        tell: Callable[[Progress], None],
        moment: Progress,
        allocation_id: str | None = None,
    ) -> None:
        self._allocation_id = allocation_id
        self._last_ns = 0
        self._channel = channel
        self._leg_id = leg_id
        self._leg = leg
        self._timeout_s = timeout_s
        self._target_s = target_s
        self._steps = steps
        self._tell = tell
        self._moment = moment
        self._phase = "start"
        #: When the exit was here, by the host's clock (`wire.elapsed`).
        self.exit_ns: int | None = None
        #: Nanoseconds on the guest's monotonic clock at which each kind of event first came.
        self.timeline: dict[str, int] = {}
        self.journal: list[str] = []
        self.events: dict[str, dict[str, Json]] = {}

    @property
    def leg_id(self) -> str:
        """Whose events these are."""
        return self._leg_id

    @property
    def ended(self) -> bool:
        """Whether the agent has signed this leg's exit."""
        return "exit" in self.events

    def note(self, event: dict[str, Json], elapsed_s: float) -> tuple[str, dict[str, Json]]:
        """Take one of this leg's events; its kind and body. Raises `ProtocolError` for one no such leg has now."""
        kind, body, t_ns = cast("str", event["type"]), cast("dict[str, Json]", event["body"]), cast("int", event["t_ns"])
        wrong = ""
        if kind not in EVENTS_OF["protected" if self._leg == "protected" else "raw"]:
            wrong = f"a {self._leg} leg says no {kind}"
        elif self.ended or (kind in self.events and kind not in REPEATABLE_EVENTS):
            wrong = f"a leg says {kind} once, and nothing behind its exit"
        elif t_ns < self._last_ns:
            wrong = f"the time of {kind} lies before that of the event before it"
        if wrong:
            raise ProtocolError(f"{self._leg} leg, event {event['seq']}: {wrong}", allocation_id=self._allocation_id)
        if kind == "exit":
            self.exit_ns = since_boot_ns()
        self._last_ns = t_ns
        self._note(kind, body, t_ns, elapsed_s)
        return kind, body

    def left_s(self, elapsed_s: float) -> float:
        """How long the guest may take for what it is asked now, in seconds."""
        return max(self._timeout_s - elapsed_s, 0.0) + _GRACE_S

    def expect_in_time(self, elapsed_s: float) -> None:
        """Kill the leg and raise `LegDeadlineError` when its time is over."""
        if elapsed_s > self._timeout_s:
            obeyed = True
            try:
                self._channel.request("kill", {"leg": self._leg_id}, within_s=_GRACE_S)
            except (GuestGoneError, ProtocolError):
                obeyed = False
            raise LegDeadlineError(
                f"the {self._leg} leg did not end within {self._timeout_s:g} s (last phase: {self._phase}) and was killed; "
                "raise --glasshouse-leg-timeout",
                obeyed=obeyed,
            )

    def until_exit(self, cursor: int, on_event: Callable[[str, dict[str, Json]], None]) -> int:
        """Follow from `cursor` until the exit event; returns the cursor behind it.

        Raises `GuestGoneError` when the guest is gone, `LegDeadlineError` when the time is over (the leg is killed), and
        `ProtocolError` for what no guest says.
        """
        began = time.monotonic()
        batches = follow(self._channel, cursor, within_s=lambda: self.left_s(time.monotonic() - began))
        while True:
            try:
                events = next(batches)
            except GuestGoneError:
                # A guest that was still speaking when the time was over is late, however little it said at a time.
                self.expect_in_time(time.monotonic() - began)
                raise
            for event in events:
                cursor = cast("int", event["seq"]) + 1
                if event["leg"] != self._leg_id:
                    continue
                kind, body = self.note(event, time.monotonic() - began)
                if kind == "exit":
                    return cursor
                on_event(kind, body)
            self.expect_in_time(time.monotonic() - began)

    def _note(self, kind: str, body: dict[str, Json], t_ns: int, elapsed_s: float) -> None:
        self.events[kind] = body
        name, detail = kind, body
        if kind == "journal":
            line = cast("str", body["line"])
            self.journal.append(line)
            entry = cast("dict[str, Json]", parse_strict(line, limit=len(line) + 1))
            name, detail = cast("str", entry["type"]), cast("dict[str, Json]", entry["body"])
        self.timeline.setdefault(name, t_ns)
        self._phase = _PHASES.get(name, self._phase)
        fraction, rate = None, None
        if name in ("progress", "train_progress"):
            units, ran_ns = cast("int", detail["units"]), cast("int", detail["elapsed_ns"])
            rate = units / (ran_ns / 1e9) if ran_ns else None
            fraction = units / self._steps if self._steps else (ran_ns / 1e9) / (self._target_s or 1.0)
        self._tell(
            Progress(
                row_id=self._moment.row_id,
                leg=self._leg,
                phase=self._phase,
                round=self._moment.round,
                rounds=self._moment.rounds,
                elapsed_s=elapsed_s,
                fraction=None if fraction is None else min(fraction, 1.0),
                rate=rate,
            )
        )
