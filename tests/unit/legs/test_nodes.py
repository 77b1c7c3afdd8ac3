"""A leg over several nodes: what ends one part ends all, and the row is told by the node where it began."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pytest_glasshouse.errors import InfrastructureError
from pytest_glasshouse.legs.nodes import over_nodes
from pytest_glasshouse.observation.outcome import Ended
from tests.limits import HANG_S

LOST = {"reason": "RankLostError", "detail": "another rank does not answer"}
MEMORY = {"reason": "OutOfMemoryError", "detail": "rank 1: no room"}
GONE = Ended(outcome="excluded", reason="the guest is gone", decision="run it again")


class FakePart:
    """One node's part, its watch and its channel: it ends by itself as it is told to, or when it is killed."""

    def __init__(
        self, node: int, *, failed: dict[str, str] | None = None, lost: Ended | None = None, waits: bool = False
    ) -> None:
        self.node = node
        self.channel = self.watch = self
        self.leg_id = "leg"
        self.events: dict[str, dict[str, Any]] = {}
        self.killed = 0
        self.on_event = None
        self._failed, self._lost = failed, lost
        self._over = threading.Event()
        self.after: FakePart | None = None
        if not waits:
            self._over.set()

    @property
    def ended(self) -> bool:
        return "exit" in self.events

    def body(self, kind: str, _kind: Any) -> Any:
        return self.events.get(kind)

    def request(self, op: str, _fields: Any, *, within_s: float) -> None:
        assert (op, within_s > 0) == ("kill", True)
        self.killed += 1
        self._over.set()

    def follow(self, _watch: Any, _on_event: Any) -> Ended | None:
        if self.after is not None:
            assert self.after._seen.wait(HANG_S)
        assert self._over.wait(HANG_S)
        if self._failed is not None:
            self.events["failed"] = self._failed
        if self._lost is None:
            self.events["exit"] = {"exit_status": 1 if self._failed or self.killed else 0}
        self._seen.set()
        return self._lost

    def finish(self, lost: Ended | None) -> Ended | None:
        if lost is not None:
            return lost
        if "failed" in self.events:
            return Ended(outcome="failed", reason=self.events["failed"]["reason"], decision="d")
        return Ended(outcome="failed", reason="ended with status 1", decision="d") if self.killed else None

    @property
    def _seen(self) -> threading.Event:
        return self.__dict__.setdefault("_seen_event", threading.Event())  # type: ignore[no-any-return]


def _run(*parts: FakePart) -> Ended | None:
    given: Any = parts
    return over_nodes(given, lambda part: part, lambda _part, step: step())  # type: ignore[arg-type, return-value]


def test_a_leg_that_ended_well_on_every_node_goes_on() -> None:
    assert _run(FakePart(0), FakePart(1)) is None


def test_the_others_are_killed_and_the_node_where_it_began_is_named() -> None:
    first, second = FakePart(0, waits=True), FakePart(1, failed=MEMORY)
    ended = _run(first, second)
    assert ended is not None
    assert (ended.reason, first.killed, second.killed) == ("node 1: OutOfMemoryError", 1, 0)


def test_a_node_that_only_missed_anothers_ranks_is_not_to_blame() -> None:
    """What is left of the leg tells before the other node's agent does."""
    first, second = FakePart(0, failed=LOST), FakePart(1, failed=MEMORY)
    second.after = first
    ended = _run(first, second)
    assert ended is not None
    assert ended.reason == "node 1: OutOfMemoryError"


def test_a_guest_that_is_gone_is_named_and_where_all_are_gone_none_is() -> None:
    one = _run(FakePart(0, waits=True), FakePart(1, lost=GONE))
    both = _run(FakePart(0, lost=GONE), FakePart(1, lost=GONE))
    assert one is not None
    assert one.reason == "node 1: the guest is gone"
    assert both == GONE


def test_a_part_that_could_not_be_started_ends_those_that_were() -> None:
    first = FakePart(0, waits=True)

    def begin(part: Any) -> Any:
        if part.node:
            raise InfrastructureError("no server")
        return part

    given: Any = (first, FakePart(1))
    with pytest.raises(InfrastructureError, match="no server"):
        over_nodes(given, begin, lambda _part, step: step())
    assert first.killed == 1


def test_an_error_while_one_is_followed_ends_the_others_and_is_raised() -> None:
    first, second = FakePart(0, waits=True), FakePart(1)

    def fails(_watch: Any, _on_event: Any) -> None:
        raise InfrastructureError("the server does not answer")

    second.follow = fails  # type: ignore[method-assign]
    with pytest.raises(InfrastructureError, match="the server does not answer"):
        _run(first, second)
    assert first.killed >= 1
