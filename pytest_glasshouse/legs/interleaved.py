"""One interleaved round from the host's side: every leg started and warm, their turns followed, every leg ended.

The agent gives the turns; this module draws the order, starts the legs one after the other, and records what the agent signed
about the borders between turns. It judges nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.channel.guest_channel import follow
from pytest_glasshouse.errors import GuestGoneError, InfrastructureError, ProtocolError, RefusedError
from pytest_glasshouse.legs.leg_watch import Progress, events_of
from pytest_glasshouse.legs.protected import ended_by_refusal
from pytest_glasshouse.legs.raw import refuse_raw
from pytest_glasshouse.legs.round import EXCLUDED
from pytest_glasshouse.observation.document import CovariatesSeen, TurnBegun
from pytest_glasshouse.observation.outcome import Ended
from pytest_glasshouse.rows.leg_order import row_seed, turns_of_round
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.legs.leg_watch import GuestEvent, LegWatch
    from pytest_glasshouse.legs.protected import ProtectedRuntime
    from pytest_glasshouse.legs.raw import RawRunner
    from pytest_glasshouse.legs.round import Round
    from pytest_glasshouse.rows.interleaving import Interleaving
    from pytest_glasshouse.rows.leg_order import Role
    from pytest_glasshouse.wire.canonical import Json


#: How long a guest may take to confirm that it killed a leg.
_KILL_S = 5.0


class BegunLeg(Protocol):
    """A leg that was started."""

    @property
    def role(self) -> Role: ...
    @property
    def watch(self) -> LegWatch: ...
    @property
    def on_event(self) -> Callable[[str, dict[str, Json]], None]: ...
    def finish(self, lost: Ended | None) -> Ended | None: ...


class InterleavedRound:
    """One round whose legs are resident together. `run` returns how the row ended if it ended here, else None."""

    def __init__(self, current: Round, design: Interleaving, starts: Sequence[Role]) -> None:
        self._current = current
        self._design = design
        self._starts = tuple(starts)
        self._begun: list[BegunLeg] = []
        self._turn = 0

    def run(self, protected: ProtectedRuntime, raw: RawRunner) -> Ended | None:
        """Start, follow and end every leg."""
        current, design = self._current, self._design
        if current.confidential or current.material.sealed:
            refuse_raw(current)
        seed = row_seed(current.seed, current.row.row_id)
        orders = turns_of_round(self._starts, number=current.number, pairs=design.pairs, seed=seed)
        turns = [role for pair in orders for role in pair]
        current.notes["turns"] = turns
        if "raw2" in self._starts:
            current.notes["raw2"] = None
        try:
            current.allowance.begin(len(self._starts))
            conduct: dict[str, Json] = {
                "round": current.turns_id, "nonce": current.nonce, "roles": [*self._starts], "turns": [*turns],
            }  # fmt: skip
            if current.witness is not None:
                conduct["witness"] = current.witness
            reply = current.channel.request("conduct", conduct)
            current.skip_earlier_events(reply)
            refused = self._start(protected, raw)
            self._until(lambda: all(leg.watch.ended for leg in self._begun))
            self._note_covariates()
        except (GuestGoneError, InfrastructureError) as error:
            if current.running and not self._kill_remaining():
                current.untrusted_guest = str(error)
            return self._finish(Ended(outcome="excluded", reason=str(error), decision=EXCLUDED), None)
        except ProtocolError as error:
            return self._finish(current.ended_by_protocol(error), None)
        return self._finish(None, refused)

    def _start(self, protected: ProtectedRuntime, raw: RawRunner) -> RefusedError | None:
        """One leg after the other, each warm before the next is started: no leg sets up during another's turns."""
        for role in self._starts:
            try:
                leg: BegunLeg = protected.begin(self._current) if role == "protected" else raw.begin(self._current, role)
            except RefusedError as error:
                # It was refused before it began: the agent stops waiting for it, and ends the others.
                self._current.channel.request("dismiss", {"round": self._current.turns_id})
                return error
            self._begun.append(leg)
            self._until(lambda watch=leg.watch: watch.ended or "resident" in watch.events)  # type: ignore[misc]
            if leg.watch.ended:
                return None
        return None

    def _kill_remaining(self) -> bool:
        """End the legs that still run: they would disturb the next row. Returns whether the guest confirmed it."""
        try:
            for leg in self._begun:
                if not leg.watch.ended:
                    self._current.channel.request("kill", {"leg": leg.watch.leg_id}, within_s=_KILL_S)
        except (GuestGoneError, ProtocolError):
            return False
        return True

    def _until(self, over: Callable[[], bool]) -> None:
        current = self._current
        began = time.monotonic()

        def within_s() -> float | None:
            elapsed_s = time.monotonic() - began
            return min((leg.watch.left_s(elapsed_s) for leg in self._begun if not leg.watch.ended), default=None)

        for events in follow(current.channel, current.cursor, within_s=within_s):
            elapsed_s = time.monotonic() - began
            for event in events_of(events):
                current.cursor = event["seq"] + 1
                self._note_event(event, elapsed_s)
            if over():
                return
            for leg in self._begun:
                if not leg.watch.ended:
                    leg.watch.expect_in_time(elapsed_s)

    def _note_event(self, event: GuestEvent, elapsed_s: float) -> None:
        """An event of a leg, of another of its ranks, or of the turns; any other is not this round's."""
        for leg in self._begun:
            if event["leg"] == leg.watch.leg_id:
                kind, body = leg.watch.note(event, elapsed_s)
                if kind != "exit":
                    leg.on_event(kind, body)
            else:
                leg.watch.note_of_rank(event, elapsed_s)
        if event["leg"] == self._current.turns_id:
            self._note(event["type"], event["body"], elapsed_s)

    def _note_covariates(self) -> None:
        """Record the samples taken since the first of these legs was forked."""
        if self._begun and "spawned" in self._begun[0].watch.timeline:
            since_ns = self._begun[0].watch.timeline["spawned"]
            seen = self._current.channel.request("covariates", {"since_ns": since_ns})
            self._current.notes["covariates"] = check_typed(seen, CovariatesSeen, "covariates")

    def _note(self, kind: str, body: dict[str, Json], elapsed_s: float) -> None:
        current = self._current
        if kind == "borders" and "borders" not in current.notes:
            current.notes["borders"] = str(body["borders"])
        elif kind == "mark-wanted":
            current.answer_mark(current.turns_id, body)
        elif kind == "marks":
            current.note_marks("turns", body)
        elif kind == "turn":
            turn = check_typed(body, TurnBegun, "turn")
            # No rate: which of the legs is ahead must not be known before the row is over.
            current.emit(
                Progress(
                    row_id=current.row.row_id,
                    leg="both",
                    phase="turns",
                    round=current.number,
                    rounds=current.rounds,
                    elapsed_s=elapsed_s,
                    fraction=min(turn["turn"] / turn["turns"], 1.0),
                )
            )
        else:
            raise current.broke_protocol(f"expected turns and one account of their borders, saw {kind}")

    def _finish(self, lost: Ended | None, refused: RefusedError | None) -> Ended | None:
        """Finish every leg, in the order they started; the protected leg's end comes first as the row's."""
        ends: dict[Role, Ended | None] = {}
        for leg in self._begun:
            try:
                ends[leg.role] = leg.finish(lost)
            except RefusedError as error:
                refused = error
            except ProtocolError as error:
                ends[leg.role] = self._current.ended_by_protocol(error)
            except GuestGoneError as error:
                ends[leg.role] = Ended(outcome="excluded", reason=f"{leg.role} leg: {error}", decision=EXCLUDED)
        if refused is not None:
            return ended_by_refusal(self._current, refused)
        in_order = [ends.get(role) for role in ("protected", *self._starts)]
        return next((end for end in in_order if end is not None), lost)
