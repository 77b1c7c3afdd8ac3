"""Turns are given one at a time, and whatever happens to a leg, the others finish."""

from __future__ import annotations

import queue
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.prologue_repeats import drawn_turns
from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.observation.claims import BordersClaims
from pytest_glasshouse.observation.turns import repeats_of
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.typed import check_typed
from tests.limits import HANG_S


class FakeLeg:
    """A leg that does as commanded; `fails_at` is the turn in which it ends instead, below 0 the first repetition."""

    process_group = 0

    def __init__(self, scheduler: TurnScheduler, role: str, log: list[str], *, fails_at: int = 0) -> None:
        self._scheduler = scheduler
        self._role = role
        self._log = log
        self._fails_at = fails_at
        #: How long the log was each time it was told to repeat its prologue.
        self.repeats: list[int] = []

    @property
    def thread(self) -> int:
        return self._scheduler.ident or 0

    def readings_ns(self) -> int:
        return 0

    @property
    def ranks(self) -> list[FakeLeg]:
        return [self]

    def command(self, kind: str, number: int) -> None:
        if kind == "repeat":
            self.repeats.append(len(self._log))
        else:
            self._log.append(f"{self._role} {kind} {number}")
        if kind == "finish" or (kind == "turn" and number == self._fails_at) or (kind == "repeat" and self._fails_at < 0):
            self._scheduler.leg_ended(self._role)
        else:
            self._scheduler.leg_waiting(self._role)


class Round:
    """One scheduler with fake legs."""

    def __init__(self, tmp_path: Path, turns: list[str], *, fails_at: dict[str, int] | None = None) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.spool = Spool(tmp_path / "spool.jsonl")
        self.log: list[str] = []
        self.scheduler = TurnScheduler(
            name="turns-1", nonce="n", roles=["raw", "protected"], turns=turns, key=self.key, spool=self.spool
        )
        self.legs: dict[str, FakeLeg] = {}
        for role in ("raw", "protected"):
            leg = self.legs[role] = FakeLeg(self.scheduler, role, self.log, fails_at=(fails_at or {}).get(role, 0))
            self.scheduler.add_leg(role, leg)

    def claims(self) -> dict[str, Any]:
        """Run to the end; the signed claims."""
        self.scheduler.join(HANG_S)
        assert not self.scheduler.is_alive()
        (body,) = [event["body"] for event in self.spool.since(0, wait_s=0) if event["type"] == "borders"]
        assert isinstance(body, dict)
        return tokens.verify(str(body["borders"]), key=self.key.public_key(), typ=evidence.TYP_BORDERS)

    def start(self) -> None:
        self.scheduler.start()
        self.scheduler.leg_waiting("raw")
        self.scheduler.leg_waiting("protected")


def test_turns_come_as_they_were_drawn_and_the_last_to_start_finishes_first(tmp_path: Path) -> None:
    current = Round(tmp_path, ["raw", "protected", "protected", "raw"])
    current.start()
    claims = current.claims()
    assert current.log == [
        "raw turn 1", "protected turn 2", "protected turn 3", "raw turn 4", "protected finish 0", "raw finish 0",
    ]  # fmt: skip
    assert claims["turns"] == ["raw", "protected", "protected", "raw"]
    assert len(claims["borders"]) == 4
    times = [border[0] for pair in claims["borders"] for border in pair]
    assert times == sorted(times)
    assert all(len(border) == 5 for pair in claims["borders"] for border in pair)


def test_each_leg_repeats_its_prologue_right_before_one_of_its_own_turns(tmp_path: Path) -> None:
    """Which, is drawn by the agent: a leg is told when it is to be done. The agent signs what was used meanwhile."""
    current = Round(tmp_path, ["raw", "protected", "protected", "raw"])
    current.start()
    claims = current.claims()
    for role, leg in current.legs.items():
        (before,) = leg.repeats
        assert current.log[before].startswith(f"{role} turn ")
    assert {claims["turns"][each["turn"] - 1] for each in claims["repeats"]} == {"raw", "protected"}
    assert all(len(each["borders"]) == 2 for each in claims["repeats"])
    assert {role for _, role, _ in repeats_of(check_typed(claims, BordersClaims, "borders"))} == {"raw", "protected"}


def test_leg_that_ends_in_a_repetition_ends_the_turns(tmp_path: Path) -> None:
    current = Round(tmp_path, ["protected", "raw"], fails_at={"protected": -1})
    current.start()
    assert current.claims()["borders"] == []
    assert current.log == ["raw finish 0"]


def test_every_leg_has_as_many_repetitions_and_more_in_long_rounds() -> None:
    turns = ["raw", "protected"] * 20
    seen = {frozenset(drawn_turns(turns)) for _ in range(20)}
    assert {len(each) for each in seen} == {6}
    assert all(sum(turns[number - 1] == "raw" for number in each) == 3 for each in seen)
    assert len(seen) > 1
    assert drawn_turns([]) == set()


def test_no_leg_gets_a_turn_before_every_leg_is_warm(tmp_path: Path) -> None:
    current = Round(tmp_path, ["raw", "protected"])
    current.scheduler.start()
    current.scheduler.leg_waiting("raw")
    current.scheduler.leg_ended("protected")
    assert current.claims()["borders"] == []
    assert current.log == ["raw finish 0"]


def test_leg_that_ends_in_its_turn_ends_the_turns_and_the_other_finishes(tmp_path: Path) -> None:
    """The other leg would wait for ever, with the plaintext in its memory."""
    current = Round(tmp_path, ["raw", "protected", "raw"], fails_at={"protected": 2})
    current.start()
    assert len(current.claims()["borders"]) == 1
    assert current.log == ["raw turn 1", "protected turn 2", "raw finish 0"]


def test_dismiss_ends_the_wait_for_a_missing_leg(tmp_path: Path) -> None:
    current = Round(tmp_path, ["raw", "protected"])
    del current.scheduler._legs["protected"]
    current.scheduler.start()
    current.scheduler.leg_waiting("raw")
    current.scheduler.dismiss()
    current.claims()
    assert current.log == ["raw finish 0"]


@pytest.mark.parametrize(("roles", "turns"), [(["raw"], ["protected"]), (["raw", "raw"], ["raw"])])
def test_turns_of_legs_that_do_not_exist_are_refused(tmp_path: Path, roles: list[str], turns: list[str]) -> None:
    with pytest.raises(ProtocolError, match="expected distinct legs and only their turns"):
        TurnScheduler(
            name="t", nonce="n", roles=roles, turns=turns, key=Ed25519PrivateKey.generate(), spool=Spool(tmp_path / "spool")
        )


def test_unknown_leg_and_second_leg_of_a_role_are_refused(tmp_path: Path) -> None:
    current = Round(tmp_path, ["raw"])
    for role in ("raw2", "raw"):
        with pytest.raises(ProtocolError, match="each of the legs"):
            current.scheduler.add_leg(role, FakeLeg(current.scheduler, role, []))
    assert isinstance(current.scheduler._leg_events, queue.Queue)
