"""A leg repeats its prologue when its agent asks for it, and at no other time; what it tells then is in the agent's account."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.agent.leg_turns import LegTurns
from pytest_glasshouse.agent.spool import Spool
from pytest_glasshouse.agent.stretches import StretchRecorder
from pytest_glasshouse.agent.turn_scheduler import TurnScheduler
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.wire.guest_messages import CLAIMS

LOSSES: dict[str, Any] = {"losses": ["0.5", "0.25"]}
WARM: dict[str, Any] = {"warmup_units": 1, "warmup_ns": 1, "steady": True}


@pytest.fixture(name="recorder")
def a_recorder() -> StretchRecorder:
    recorder = StretchRecorder()
    recorder.pid = os.getpid()
    return recorder


def _turns(tmp_path: Path, recorder: StretchRecorder, *, interleaved: bool) -> LegTurns:
    spool = Spool(tmp_path / "spool.jsonl")
    scheduler = TurnScheduler(name="t", nonce="n", roles=["raw"], turns=["raw"], key=Ed25519PrivateKey.generate(), spool=spool)
    return LegTurns(scheduler if interleaved else None, role="raw", label="raw-1", spool=spool, stretches=recorder)


def test_leg_that_trains_in_one_go_repeats_before_its_clock_runs(tmp_path: Path, recorder: StretchRecorder) -> None:
    turns = _turns(tmp_path, recorder, interleaved=False)
    kind, body = turns.on_warm()
    assert kind == "repeat"
    assert body["steps"] in (2, 3, 4)
    assert turns.on_repeated(LOSSES) == ("go", {})
    claims: Any = recorder.claims("00")
    CLAIMS["stretches"].check(claims, "stretches")
    assert claims["repeats"] == [{"after": 0, "losses": ["0.5", "0.25"]}]


def test_leg_that_takes_turns_repeats_what_its_scheduler_says_and_then_waits_again(
    tmp_path: Path, recorder: StretchRecorder
) -> None:
    turns = _turns(tmp_path, recorder, interleaved=True)
    for command in (("repeat", 3), ("turn", 1), ("finish", 0)):
        turns.command(*command)
    assert turns.on_turn("resident", WARM) == ("repeat", {"steps": 3})
    assert turns.on_repeated(LOSSES) == ("turn", {"turn": 1})
    assert turns.on_turn("turn-done", {"segment": []}) == ("finish", {"turn": 0})


@pytest.mark.parametrize("interleaved", [False, True])
def test_a_repetition_that_nobody_asked_for_ends_the_leg(tmp_path: Path, recorder: StretchRecorder, *, interleaved: bool) -> None:
    """A leg could otherwise tell good losses often, and other ones never."""
    with pytest.raises(ProtocolError, match="none was asked for"):
        _turns(tmp_path, recorder, interleaved=interleaved).on_repeated(LOSSES)


def test_messages_of_the_other_kind_of_leg_end_it(tmp_path: Path, recorder: StretchRecorder) -> None:
    with pytest.raises(ProtocolError, match="expected no 'warm'"):
        _turns(tmp_path, recorder, interleaved=True).on_warm()
    with pytest.raises(ProtocolError, match="expected no 'turn-done'"):
        _turns(tmp_path, recorder, interleaved=False).on_turn("turn-done", {})


def test_a_repetition_while_a_clock_runs_ends_the_leg(tmp_path: Path, recorder: StretchRecorder) -> None:
    turns = _turns(tmp_path, recorder, interleaved=False)
    turns.on_warm()
    recorder.drained()
    with pytest.raises(ProtocolError, match="while a clock runs"):
        turns.on_repeated(LOSSES)
