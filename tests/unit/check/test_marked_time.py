"""The server's marks against the guest's clock: honest rounds are confirmed, and a clock of another rate is not."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.check import marked_time
from pytest_glasshouse.check.marked_time import RESTART_NS, TRIP_NS, time_gaps
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.marks import marks_claims
from tests.tamper.removal import unnoticed_in

AGENT = Ed25519PrivateKey.generate()
NONCE = "ab" * 32
SECOND = 1_000_000_000


#: More than marks may take to come in a round of two marks that count, and of many.
TOO_LONG_S = ((RESTART_NS + 2 * TRIP_NS) / SECOND,) * 2


class Round:
    """A round as it truly passed, in nanoseconds, seen by clocks of other rates.

    `trip_s` draws how long a mark takes to come; the server signs somewhere within.
    """

    def __init__(
        self, *, seed: int = 1, guest: float = 1.0, host: float = 1.0, trip_s: tuple[float, float] = (0.005, 0.02)
    ) -> None:
        self._drawn, self._guest, self._host, self._trip_s = random.Random(seed), guest, host, trip_s
        self.now = 7_000 * SECOND
        self.slip_ns = 0
        self.times: list[list[Any]] = [[secrets.token_hex(16), self.now // 1000]]

    def by_guest(self, now: int) -> int:
        return int(now * self._guest) + self.slip_ns

    def mark(self) -> list[Any]:
        """A mark: it is added to the server's; returns the agent's account."""
        trip = int(self._drawn.uniform(*self._trip_s) * SECOND)
        nonce, asked = secrets.token_hex(16), self.now
        self.times.append([nonce, (asked + int(trip * self._drawn.random())) // 1000])
        self.now += trip
        return [nonce, self.by_guest(asked), self.by_guest(self.now)]

    def pause(self, seconds: float) -> None:
        self.now += int(seconds * SECOND)

    def signed(self, claims: dict[str, Any], typ: str) -> str:
        return tokens.sign(claims, key=AGENT, typ=typ)

    def account(self, marks: list[Any], nonce: str = NONCE) -> str:
        return self.signed(marks_claims(nonce=nonce, marks=marks), evidence.TYP_MARKS)

    def notes(self, order: list[str], **more: Any) -> dict[str, Any]:
        ak = tokens.public_text(AGENT.public_key())
        return {"round": 1, "nonce": NONCE, "order": order, "guest": [{"ak": ak}], **more}

    def host_times(self, began: int) -> dict[str, int]:
        return {"startNs": int(began * self._host), "exitNs": int((self.now + SECOND) * self._host)}


def in_turns(pairs: int = 10, turn_s: float = 3.0, lost_s: float = 0.0, **clocks: Any) -> dict[str, Any]:
    """An interleaved round. The guest's clock loses `lost_s` in each turn of the protected leg, and gains it in raw's."""
    made, began = Round(**clocks), 7_000 * SECOND
    turns = ["raw", "protected"] * pairs
    marks, borders = [made.mark()], list[Any]()
    for leg in turns:
        made.pause(0.002)
        before = made.by_guest(made.now)
        made.pause(turn_s)
        made.slip_ns += int((lost_s if leg == "raw" else -lost_s) * SECOND)
        borders.append([[before, 0, 1, 0, 1], [made.by_guest(made.now), 0, 1, 0, 1]])
        made.pause(0.002)
        marks.append(made.mark())
    claims = evidence.borders_claims(nonce=NONCE, roles=["raw", "protected"], turns=turns, borders=borders)
    return made.notes(
        ["raw", "protected"],
        turns=turns,
        borders=made.signed(claims, evidence.TYP_BORDERS),
        marks={"times": made.times, "agent": {"turns": made.account(marks)}},
        raw={"host": made.host_times(began)},
        protected={"host": made.host_times(began)},
    )


def one_after_the_other(leg_s: float = 120.0, **clocks: Any) -> dict[str, Any]:
    """A round of two legs that train in one go."""
    made = Round(**clocks)
    legs: dict[str, Any] = {}
    accounts = {}
    for leg in ("raw", "protected"):
        began = made.now
        made.pause(2.0)
        marks = [made.mark()]
        drained = made.by_guest(made.now)
        made.pause(leg_s)
        row: list[Any] = [drained, drained + 1, made.by_guest(made.now) - 1, made.by_guest(made.now), 100, 0]
        marks.append(made.mark())
        accounts[leg] = made.account(marks)
        claims = evidence.stretches_claims(nonce=NONCE, stretches=[row], conditions=[], cpu_ns=[], waits=[])
        legs[leg] = {"host": made.host_times(began), "stretches": made.signed(claims, evidence.TYP_STRETCHES)}
    return made.notes(["raw", "protected"], marks={"times": made.times, "agent": accounts}, **legs)


def gaps(notes: dict[str, Any]) -> list[str]:
    return [*time_gaps(notes)]  # type: ignore[arg-type]


@pytest.mark.parametrize("made", [in_turns, one_after_the_other])
def test_honest_rounds_are_confirmed_whatever_the_network(made: Any) -> None:
    """None of these is accused: from loopback to the other side of the world, and clocks that differ as quartzes do."""
    accused = []
    for seed in range(250):
        slowest = (0.001, 0.03, 0.15, 0.18)[seed % 4]
        rate = random.Random(seed).uniform(1 - 1e-4, 1 + 1e-4)
        accused += gaps(made(seed=seed, guest=rate, host=1 / rate, trip_s=(slowest / 3, slowest)))
    assert accused == []


@pytest.mark.parametrize("rate", [0.91, 0.95, 0.99, 1.01, 1.05])
@pytest.mark.parametrize("made", [in_turns, one_after_the_other])
def test_guest_whose_clock_runs_at_another_rate_is_seen(made: Any, rate: float) -> None:
    """Its agent and its legs agree with each other: only a clock outside can tell."""
    seen = gaps(made(guest=rate))
    assert any("runs at another rate" in each for each in seen)


def test_clock_that_is_slow_for_one_leg_only_is_seen() -> None:
    """Over the round its errors cancel out."""
    seen = gaps(in_turns(lost_s=0.15))
    assert [any(f"while the {leg} leg was timed" in each for each in seen) for leg in ("raw", "protected")] == [True, True]
    assert not any("the round's legs" in each for each in seen)


def test_slow_host_clock_is_seen() -> None:
    assert gaps(one_after_the_other(host=0.95)) != []
    assert all("by the host's clock" in each for each in gaps(one_after_the_other(host=0.95)))


def test_marks_that_take_too_long_bound_nothing() -> None:
    """Whoever relays them could hide a slow clock behind the network."""
    seen = gaps(in_turns(guest=0.95, trip_s=TOO_LONG_S))
    assert any("too long to say" in each for each in seen)


def _shifted(notes: dict[str, Any]) -> None:
    """The turns begin before the mark was there."""
    claims = tokens.peek(notes["borders"])
    borders: Any = claims["borders"]
    borders[3][0][0] -= SECOND
    notes["borders"] = tokens.sign(claims, key=AGENT, typ=evidence.TYP_BORDERS)


def _turn_fewer(notes: dict[str, Any]) -> None:
    claims = tokens.peek(notes["borders"])
    borders: Any = claims["borders"]
    borders.pop()
    notes["borders"] = tokens.sign(claims, key=AGENT, typ=evidence.TYP_BORDERS)


def _other_mark(notes: dict[str, Any]) -> None:
    notes["marks"]["times"][2][0] = secrets.token_hex(16)


def _no_marks(notes: dict[str, Any]) -> None:
    del notes["marks"]


LIES = {
    "turn began before its mark": (_shifted, "not every timed stretch"),
    "account of a turn fewer": (_turn_fewer, "not every timed stretch"),
    "mark that the agent did not ask for": (_other_mark, "other marks"),
    "no marks": (_no_marks, "no mark of the server"),
}


@pytest.mark.parametrize("name", LIES)
def test_marks_belong_to_the_stretches(name: str) -> None:
    edit, reason = LIES[name]
    notes = in_turns()
    assert gaps(notes) == []
    edit(notes)
    assert [reason in each for each in gaps(notes)] == [True]


def test_removal_of_any_check_is_noticed() -> None:
    made: dict[str, Callable[[], dict[str, Any]]] = {
        "honest": in_turns,
        "slow guest": lambda: in_turns(guest=0.95),
        "slow for one leg": lambda: in_turns(lost_s=0.15),
        "slow host": lambda: one_after_the_other(host=0.95),
        "slow network": lambda: in_turns(trip_s=TOO_LONG_S),
    }

    def lie(edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        notes = in_turns()
        edit(notes)
        return notes

    documents = {name: make() for name, make in made.items()} | {name: lie(edit) for name, (edit, _) in LIES.items()}
    unnoticed, checks = unnoticed_in({name: partial(gaps, notes) for name, notes in documents.items()}, marked_time)
    assert checks >= 5
    assert "\n".join(unnoticed) == ""


def test_account_of_another_round_is_refused() -> None:
    notes = in_turns()
    claims = tokens.peek(notes["marks"]["agent"]["turns"])
    notes["marks"]["agent"]["turns"] = tokens.sign({**claims, "nonce": "cd" * 32}, key=AGENT, typ=evidence.TYP_MARKS)
    with pytest.raises(ValueError, match="another round"):
        gaps(notes)


def test_account_by_another_agent_is_refused() -> None:
    notes = in_turns()
    token = notes["marks"]["agent"]["turns"]
    notes["marks"]["agent"]["turns"] = tokens.sign(tokens.peek(token), key=Ed25519PrivateKey.generate(), typ=evidence.TYP_MARKS)
    with pytest.raises(Exception, match="jws-header"):
        gaps(notes)
