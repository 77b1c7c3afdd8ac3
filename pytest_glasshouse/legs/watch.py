"""Following one leg through the spool until its agent has signed its exit, or a deadline, or the guest is gone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, cast

from pytest_glasshouse.channel.guest import Channel, follow
from pytest_glasshouse.errors import InfrastructureError
from pytest_glasshouse.legs.progress import Progress
from pytest_glasshouse.wire.canonical import parse_strict
from pytest_glasshouse.wire.elapsed import since_boot_ns

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


class LegDeadlineError(InfrastructureError):
    """A leg did not end in time and was killed."""


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
    ) -> None:
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
        """Take one of this leg's events; its kind and body."""
        kind, body = cast("str", event["type"]), cast("dict[str, Json]", event["body"])
        if kind == "exit":
            self.exit_ns = since_boot_ns()
        self._note(kind, body, cast("int", event["t_ns"]), elapsed_s)
        return kind, body

    def expect_in_time(self, elapsed_s: float) -> None:
        """Kill the leg and raise `LegDeadlineError` when its time is over."""
        if elapsed_s > self._timeout_s:
            self._channel.request("kill", {"leg": self._leg_id})
            raise LegDeadlineError(
                f"the {self._leg} leg did not end within {self._timeout_s:g} s (last phase: {self._phase}) and was killed; "
                "raise --glasshouse-leg-timeout"
            )

    def until_exit(self, cursor: int, on_event: Callable[[str, dict[str, Json]], None]) -> int:
        """Follow from `cursor` until the exit event; returns the cursor behind it.

        Raises `GuestGoneError` when the guest is gone and `LegDeadlineError` when the time is over (the leg is killed).
        """
        began = time.monotonic()
        for events in follow(self._channel, cursor):
            for event in events:
                cursor = cast("int", event["seq"]) + 1
                if event["leg"] != self._leg_id:
                    continue
                kind, body = self.note(event, time.monotonic() - began)
                if kind == "exit":
                    return cursor
                on_event(kind, body)
            self.expect_in_time(time.monotonic() - began)
        raise AssertionError("follow ends only with an exception")

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
