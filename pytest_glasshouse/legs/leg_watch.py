"""Following one leg through the spool until its agent has signed its exit, its deadline passes, or the guest is gone."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypedDict, TypeVar

from pytest_glasshouse.channel.guest_channel import Channel, follow
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, ProtocolError
from pytest_glasshouse.observation.document import Facts
from pytest_glasshouse.wire.canonical import parse_strict
from pytest_glasshouse.wire.elapsed import since_boot_ns
from pytest_glasshouse.wire.guest_messages import EVENTS_OF, REPEATABLE_EVENTS
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.wire.canonical import Json

T = TypeVar("T")

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
#: The name of what comes before the first leg, where a leg's would stand: the model, or a large package, on its way.
MODEL = "model"

#: Time beyond a leg's deadline in which the guest may answer the request under way, and kill the leg.
_GRACE_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a row. `fraction` is of the leg's target, `rate` in units per second; None where there is none yet.

    `legs` is how many a round has.
    """

    row_id: str
    leg: str
    phase: str
    round: int
    rounds: int
    elapsed_s: float
    fraction: float | None = None
    rate: float | None = None
    legs: int = 2

    def to_json(self) -> dict[str, Json]:
        """As a JSON object."""
        return asdict(self)


class GuestEvent(TypedDict):
    """One event of the guest's spool."""

    seq: int
    t_ns: int
    leg: str
    type: str
    body: Facts


class _JournalLine(TypedDict):
    type: str
    body: Facts


def events_of(batch: Sequence[Mapping[str, Json]]) -> list[GuestEvent]:
    """The events of one answer of the guest."""
    return [check_typed(event, GuestEvent, "event") for event in batch]


class LegDeadlineError(InfrastructureError):
    """A leg did not end in time. `killed` is whether its agent confirmed that it killed it."""

    def __init__(self, message: str, *, killed: bool) -> None:
        super().__init__(message)
        self.killed = killed


class LegWatch:
    """The events of one leg as they come in. `on_event(type, body)` may answer the leg."""

    def __init__(
        self,
        channel: Channel,
        *,
        leg_id: str,
        leg: str,
        timeout_s: float,
        target_s: float | None,
        steps: int | None,
        emit: Callable[[Progress], None],
        progress: Progress,
        allocation_id: str | None = None,
        ranks: Sequence[LegWatch] = (),
    ) -> None:
        """`ranks` watch the other ranks of a leg that has several; this is the first one's, whose exit comes last."""
        self.ranks = tuple(ranks)
        self._allocation_id = allocation_id
        self._last_ns = 0
        self._channel = channel
        self._leg_id = leg_id
        self._leg = leg
        self._timeout_s = timeout_s
        self._target_s = target_s
        self._steps = steps
        self._emit = emit
        self._progress = progress
        self._phase = "start"
        #: When the exit had arrived, by the host's clock (`wire.elapsed`).
        self.exit_ns: int | None = None
        #: Nanoseconds on the guest's monotonic clock at which each kind of event first came.
        self.timeline: dict[str, int] = {}
        self.journal: list[str] = []
        self.events: dict[str, dict[str, Json]] = {}

    @property
    def leg_id(self) -> str:
        """The leg whose events these are."""
        return self._leg_id

    @property
    def leg(self) -> str:
        """Its role in the round."""
        return self._leg

    def body(self, kind: str, body_type: type[T]) -> T | None:
        """The body of the last event of a kind; None where there was none."""
        return check_typed(self.events[kind], body_type, kind) if kind in self.events else None

    @property
    def ended(self) -> bool:
        """Whether the agent has signed this leg's exit."""
        return "exit" in self.events

    def note(self, event: GuestEvent, elapsed_s: float) -> tuple[str, dict[str, Json]]:
        """Record one of this leg's events; returns its kind and body. Raises `ProtocolError` for one that may not come now."""
        kind, body, t_ns = event["type"], event["body"], event["t_ns"]
        wrong = ""
        if kind not in EVENTS_OF["protected" if self._leg == "protected" else "raw"]:
            wrong = f"expected an event of a {self._leg} leg, saw {kind}"
        elif self.ended or (kind in self.events and kind not in REPEATABLE_EVENTS):
            wrong = f"expected {kind} once, and no event after the exit"
        elif kind == "exit" and (running := [rank for rank, other in enumerate(self.ranks, 1) if not other.ended]):
            wrong = f"expected the exits of ranks {', '.join(map(str, running))} before the leg's"
        elif t_ns < self._last_ns:
            wrong = f"expected {kind} to be no earlier than the event before it"
        if wrong:
            raise ProtocolError(f"{self._leg} leg, event {event['seq']}: {wrong}", allocation_id=self._allocation_id)
        if kind == "exit":
            self.exit_ns = since_boot_ns()
        self._last_ns = t_ns
        self._note(kind, body, t_ns, elapsed_s)
        return kind, body

    def left_s(self, elapsed_s: float) -> float:
        """How long the guest may take for its next answer, in seconds."""
        return max(self._timeout_s - elapsed_s, 0.0) + _GRACE_S

    def expect_in_time(self, elapsed_s: float) -> None:
        """Kill the leg and raise `LegDeadlineError` when its time is over."""
        if elapsed_s > self._timeout_s:
            killed, stopped = True, ""
            try:
                answer = self._channel.request("kill", {"leg": self._leg_id}, within_s=_GRACE_S)
                ranks = check_typed(answer.get("stopped", []), list[int], "kill.stopped")
                stopped = "".join(f"; rank {rank} is stopped" for rank in ranks)
            except (GuestGoneError, ProtocolError):
                killed = False
            raise LegDeadlineError(
                f"the {self._leg} leg did not end within {self._timeout_s:g} s (last phase: {self._phase}{stopped}) "
                "and was killed; raise --glasshouse-leg-timeout",
                killed=killed,
            )

    def note_of_rank(self, event: GuestEvent, elapsed_s: float) -> bool:
        """Record an event of another rank of this leg; whether it was one."""
        of = [other for other in self.ranks if other.leg_id == event["leg"]]
        for other in of:
            other.note(event, elapsed_s)
        return bool(of)

    def until_exit(self, cursor: int, on_event: Callable[[str, dict[str, Json]], None]) -> int:
        """Follow from `cursor` until the exit event; returns the cursor after it.

        Raises `GuestGoneError` when the guest is gone, `LegDeadlineError` after the deadline (the leg is killed), and
        `ProtocolError` for an event that breaks the protocol.
        """
        began = time.monotonic()
        batches = follow(self._channel, cursor, within_s=lambda: self.left_s(time.monotonic() - began))
        while True:
            try:
                events = events_of(next(batches))
            except GuestGoneError:
                # A guest that was still sending at the deadline is late, and not gone.
                self.expect_in_time(time.monotonic() - began)
                raise
            for event in events:
                cursor = event["seq"] + 1
                elapsed_s = time.monotonic() - began
                if self.note_of_rank(event, elapsed_s) or event["leg"] != self._leg_id:
                    continue
                kind, body = self.note(event, elapsed_s)
                if kind == "exit":
                    return cursor
                on_event(kind, body)
            self.expect_in_time(time.monotonic() - began)

    def _note(self, kind: str, body: Facts, t_ns: int, elapsed_s: float) -> None:
        self.events[kind] = body
        name, detail = kind, body
        if kind == "journal":
            line = str(body["line"])
            self.journal.append(line)
            entry = check_typed(parse_strict(line, limit=len(line) + 1), _JournalLine, "journal line")
            name, detail = entry["type"], entry["body"]
        self.timeline.setdefault(name, t_ns)
        self._phase = _PHASES.get(name, self._phase)
        fraction, rate = None, None
        if name in ("progress", "train_progress"):
            units, ran_ns = int(detail["units"]), int(detail["elapsed_ns"])
            rate = units / (ran_ns / 1e9) if ran_ns else None
            fraction = units / self._steps if self._steps else (ran_ns / 1e9) / (self._target_s or 1.0)
        self._emit(
            Progress(
                row_id=self._progress.row_id,
                leg=self._leg,
                phase=self._phase,
                round=self._progress.round,
                rounds=self._progress.rounds,
                elapsed_s=elapsed_s,
                fraction=None if fraction is None else min(fraction, 1.0),
                rate=rate,
                legs=self._progress.legs,
            )
        )
