"""How a row of one leg after the other ends where its guest goes away or its server answers what no server says."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.wire import evidence, tokens
from tests.unit.channel.lying_agent import KEY
from tests.unit.legs.lying_row import EXIT, Spool, Told, foreign_evidence, ran, vanish


def protected_notes(outcome: Any) -> Any:
    return outcome.observation["rounds"][0]["protected"]


@pytest.mark.parametrize(("order", "leg"), [("raw-first", "raw"), ("protected-first", "protected")])
def test_guest_that_is_gone_before_a_leg_starts_excludes_the_row(order: Any, leg: str, host_attestation: HostAttestation) -> None:
    outcome, grants, agent = ran(host_attestation, {"put": vanish}, order=order)
    assert outcome.ended is not None
    assert outcome.ended.outcome == "excluded"
    assert outcome.ended.reason.startswith(f"{leg} leg: guest of allocation a is gone")
    assert "start" not in agent.asked
    assert not grants.ended


def test_guest_that_is_gone_when_the_server_has_answered_is_told_nothing_more(host_attestation: HostAttestation) -> None:
    """An outage of the server is answered with a refusal to the leg; where the guest is gone, that itself is the reason."""
    spool = Spool(lambda _role, _request: [("challenge-wanted", {})])
    spool.answers["answer"] = vanish
    outcome, _, agent = ran(host_attestation, spool.answers, order="protected-first")
    assert outcome.ended is not None
    assert outcome.ended.outcome == "excluded"
    assert outcome.ended.reason == "guest of allocation a is gone (connection closed)"
    assert [each["kind"] for each in agent.asked["answer"]] == ["challenge"]
    assert protected_notes(outcome)["challenge"]["nonce"]


def test_rented_guest_that_the_broker_ended_in_a_protected_leg_was_terminated(host_attestation: HostAttestation) -> None:
    """Without its signed exit nothing shows that it zeroized; the reason is the broker's, and the guest's is added."""
    spool = Spool(lambda _role, _request: [("challenge-wanted", {})])
    spool.answers["answer"] = vanish
    lost, rented = ("ended", "the budget of 20 USD is reached"), {"remote": True}
    outcome, _, _ = ran(host_attestation, spool.answers, order="protected-first", lost=lost, grant=rented)
    assert outcome.ended is not None
    assert outcome.ended.outcome == "excluded"
    assert outcome.ended.reason == f"{lost[1]} (guest of allocation a is gone (connection closed))"
    assert protected_notes(outcome)["terminated"] == lost[1]


def test_head_that_the_server_does_not_countersign_is_noted_and_the_row_goes_on(host_attestation: HostAttestation) -> None:
    """The findings say what that means: the journal is not countersigned."""
    claims = {"nonce": "0" * 64, "head": "0" * 64, "count": 1, "adapter": "", "status": "completed"}
    head: Told = ("head", {"head": tokens.sign(claims, key=KEY, typ=evidence.TYP_HEAD)})
    spool = Spool(lambda role, _request: [("challenge-wanted", {}), head, EXIT] if role == "protected" else [EXIT])
    outcome, grants, _ = ran(host_attestation, spool.answers, order="protected-first")
    notes = protected_notes(outcome)
    assert notes["completeRefusal"]["reason"]
    assert "receipt" not in notes
    assert set(spool.legs) == {"protected", "raw"}
    assert not grants.ended


@pytest.mark.parametrize("when", ["before the leg", "during the leg"])
def test_server_that_breaks_the_protocol_is_not_put_down_to_the_guest(when: str) -> None:
    """An answer that no server gives is an error of the tool, and the guest is not blamed for it."""

    class Client:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def enrol(self, **fields: str) -> Any:
            if when == "before the leg":
                raise ProtocolError("expected JSON, saw something else")
            return self._real.enrol(**fields)

        def release(self, **_fields: object) -> Any:
            return {"result": 1}

    host_attestation = HostAttestation()
    host_attestation.client = Client(host_attestation.client)  # type: ignore[assignment]
    spool = Spool(lambda _role, _request: [("challenge-wanted", {}), foreign_evidence()])
    message = "expected JSON" if when == "before the leg" else "the server's result: expected a text"
    with pytest.raises(ProtocolError, match=message):
        ran(host_attestation, spool.answers, order="protected-first")
    host_attestation.close()
