"""At a border the agent waits for the server's signature over a nonce that it drew there, and for nothing less."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.border_marks import BorderMarks
from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.tamper.testbed import WEAK_KEY
from pytest_glasshouse.wire import evidence, tokens
from pytest_glasshouse.wire.canonical import b64u
from tests.limits import HANG_S, until
from tests.unit.agent.test_turn_scheduler import FakeLeg

SERVER = Ed25519PrivateKey.generate()
AGENT = Ed25519PrivateKey.generate()
KEY = tokens.public_text(SERVER.public_key())
ROUND = "ab" * 32


def mark(nonce: str, *, key: Ed25519PrivateKey = SERVER, **changed: Any) -> Any:
    """A server's answer."""
    claims = {"iss": "server", "round": ROUND, "nonce": nonce, "number": 2, "t_us": 1_800_000_000_000_000, "chain": ROUND}
    return {"mark": tokens.sign({**claims, **changed}, key=key, typ=evidence.TYP_MARK)}


class Turns:
    """A scheduler of two legs whose host the test plays."""

    def __init__(self, folder: Path) -> None:
        self.spool = Spool(folder / "spool.jsonl")
        self.given: list[str] = []
        self.scheduler = TurnScheduler(
            name="turns-1", nonce=ROUND, roles=["raw", "protected"], turns=["raw", "protected"], key=AGENT, spool=self.spool,
            witness=KEY,
        )  # fmt: skip
        for role in ("raw", "protected"):
            self.scheduler.add_leg(role, FakeLeg(self.scheduler, role, self.given))
        self.scheduler.start()
        for role in ("raw", "protected"):
            self.scheduler.leg_waiting(role)

    def bodies(self, kind: str) -> list[Any]:
        return [event["body"] for event in self.spool.since(0, wait_s=0) if event["type"] == kind]

    def asked(self, number: int) -> str:
        """The nonce of a border, once the agent has reached it."""
        until(lambda: len(self.bodies("mark-wanted")) >= number, f"border {number}")
        return str(self.bodies("mark-wanted")[number - 1]["nonce"])

    def ended(self) -> dict[str, Any]:
        """The signed account of the marks, when the turns are over."""
        self.scheduler.join(HANG_S)
        assert not self.scheduler.is_alive()
        (body,) = self.bodies("marks")
        return tokens.verify(body["marks"], key=AGENT.public_key(), typ=evidence.TYP_MARKS)


def test_turn_begins_when_the_mark_before_it_is_there_and_the_last_is_followed_by_one(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    given = []
    for number in (1, 2, 3):
        nonce = turns.asked(number)
        given.append([*turns.given])
        turns.scheduler.answer("mark", mark(nonce))
    claims = turns.ended()
    assert given == [[], ["raw turn 1"], ["raw turn 1", "protected turn 2"]]
    assert turns.given[2:] == ["protected finish 0", "raw finish 0"]
    assert [each[0] for each in claims["marks"]] == [turns.asked(number) for number in (1, 2, 3)]
    assert claims["nonce"] == ROUND
    times = [time for _, asked, got in claims["marks"] for time in (asked, got)]
    assert times == sorted(times)


#: Answers of a host that has no mark of the server, or not for this border.
NO_MARKS: dict[str, Callable[[str], tuple[str, Any]]] = {
    "refusal": lambda _nonce: ("refusal", {"reason": "no-answer"}),
    "of another server": lambda nonce: ("mark", mark(nonce, key=Ed25519PrivateKey.generate())),
    "of another border": lambda _nonce: ("mark", mark(secrets.token_hex(16))),
    "with more in it": lambda nonce: ("mark", mark(nonce, more=1)),
    "no token": lambda _nonce: ("mark", {"mark": "none"}),
    "another answer": lambda nonce: ("more", mark(nonce)),
}


@pytest.mark.parametrize("answer", NO_MARKS)
def test_without_its_mark_no_turn_begins_and_the_legs_finish(answer: str, tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    turns.scheduler.answer(*NO_MARKS[answer](turns.asked(1)))
    assert turns.ended()["marks"] == []
    assert turns.given == ["protected finish 0", "raw finish 0"]


def test_legs_that_end_at_a_border_end_the_wait(tmp_path: Path) -> None:
    """They were killed: the host will bring no mark."""
    turns = Turns(tmp_path)
    turns.asked(1)
    for role in ("raw", "protected"):
        turns.scheduler.leg_ended(role)
    assert turns.ended()["marks"] == []
    assert turns.given == []


def test_without_a_witness_nothing_is_asked(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.jsonl")
    marks = BorderMarks(None, nonce=ROUND, label="raw-1", spool=spool, answer=lambda: pytest.fail("asked"))
    marks.cross()
    marks.write(AGENT)
    assert spool.since(0, wait_s=0) == []


def test_key_of_small_order_is_no_witness(tmp_path: Path) -> None:
    """Anyone could sign under it."""
    weak = b64u(WEAK_KEY)
    with pytest.raises(IntegrityError):
        BorderMarks(weak, nonce=ROUND, label="raw-1", spool=Spool(tmp_path / "spool"), answer=lambda: pytest.fail("asked"))
