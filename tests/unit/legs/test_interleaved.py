"""An interleaved round that ends early: every leg is ended, what the guest left is kept, and the row says why."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.wire import evidence, tokens
from tests.unit.channel.lying_agent import HELLO, KEY, LyingAgent
from tests.unit.legs.lying_row import EXIT, RESIDENT, Grants, Spool, Told, foreign_evidence, ran, seed_that_starts, vanish

#: Seeds of rounds whose first leg to start is this one.
PROTECTED_FIRST, RAW_FIRST = seed_that_starts("protected"), seed_that_starts("raw")


def turns(
    host_attestation: HostAttestation, spool: Spool, *, seed: int = RAW_FIRST, **more: Any
) -> tuple[Outcome, Grants, LyingAgent]:
    return ran(host_attestation, spool.answers, order="interleaved", settings={"seed": seed}, **more)


def notes_of(outcome: Outcome) -> Any:
    (notes,) = outcome.observation["rounds"]
    return notes


def all_resident(_role: str, _request: dict[str, Any]) -> list[Told]:
    return [RESIDENT]


def all_exit_when_the_last_is_resident(*, before: list[Told] | None = None, by: str = "") -> Spool:
    """Legs that go resident; when the second has, both exit. `before` is told then first, of the leg `by` or the round."""

    def told(role: str, request: dict[str, Any]) -> list[Told]:
        if role == "raw":
            return [RESIDENT]
        spool.tell(request["leg"], *RESIDENT)
        for kind, body in before or []:
            spool.tell(by or request["round"], kind, body)
        spool.tell(spool.legs["raw"], "exit")
        return [EXIT]

    spool = Spool(told)
    return spool


def test_confidential_row_is_refused_before_any_leg_starts(host_attestation: HostAttestation) -> None:
    """Also where the protected leg would be the first to start: it would be left running beside nothing."""
    spool = Spool(all_resident)
    with pytest.raises(ConfigurationError, match="its package is confidential"):
        ran(host_attestation, spool.answers, order="interleaved", settings={"seed": PROTECTED_FIRST, "confidential": True})
    assert spool.legs == {}


@pytest.mark.parametrize("seed", [PROTECTED_FIRST, RAW_FIRST])
def test_legs_that_wait_for_one_that_the_server_refuses_are_dismissed(seed: int, host_attestation: HostAttestation) -> None:
    spool = Spool(all_resident)

    def dismiss(_request: dict[str, Any]) -> dict[str, Any]:
        for leg in spool.legs.values():
            spool.tell(leg, "exit")
        return {}

    spool.answers |= {
        "enrol": {"ak": HELLO["ak"], "proof": evidence.prove_enrolment("another grant", key=KEY)}, "dismiss": dismiss,
    }  # fmt: skip
    outcome, grants, agent = turns(host_attestation, spool, seed=seed)
    assert outcome.ended is not None
    assert (outcome.ended.outcome, outcome.ended.reason) == ("failed", "the attestation server refused: proof")
    assert "no key was released" in outcome.ended.decision
    notes = notes_of(outcome)
    assert notes["protected"]["refusal"] == {"reason": "proof"}
    assert [request["round"] for request in agent.asked["dismiss"]] == [agent.asked["conduct"][0]["round"]]
    assert list(spool.legs) == ([] if seed == PROTECTED_FIRST else ["raw"])
    assert ("exit" in (notes["raw"] or {})) == (seed == RAW_FIRST)
    assert not grants.ended


def test_release_that_the_server_refuses_ends_the_row_when_every_leg_has_ended(host_attestation: HostAttestation) -> None:
    """The other leg is finished all the same: what it left is fetched and dropped."""
    stale = foreign_evidence()

    def told(role: str, _request: dict[str, Any]) -> list[Told]:
        return [RESIDENT] if role == "raw" else [RESIDENT, ("challenge-wanted", {}), stale]

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["kind"] == "refusal":
            for leg in spool.legs.values():
                spool.tell(leg, "exit")
        return {}

    spool = Spool(told)
    spool.answers["answer"] = answer
    outcome, grants, agent = turns(host_attestation, spool)
    assert outcome.ended is not None
    notes = notes_of(outcome)
    reason = notes["protected"]["refusal"]["reason"]
    assert (outcome.ended.outcome, outcome.ended.reason) == ("failed", f"the attestation server refused: {reason}")
    assert [each["body"].get("reason") for each in agent.asked["answer"]] == [None, reason]
    assert {"exit", "adapterSha256"} <= notes["raw"].keys()
    assert f"{spool.legs['raw']}-adapter" in {each["name"] for each in agent.asked["get"]}
    assert not grants.ended


def test_guest_that_is_gone_during_the_turns_is_not_used_again(host_attestation: HostAttestation) -> None:
    """Nobody knows whether its legs still run."""
    spool = Spool(all_resident)
    listed = spool.answers["pull"]
    spool.answers["pull"] = lambda request: listed(request) if len(spool.legs) == 1 else vanish(request)
    outcome, grants, _ = turns(host_attestation, spool)
    assert outcome.ended is not None
    assert outcome.ended.outcome == "excluded"
    assert "is gone" in outcome.ended.reason
    assert grants.ended == [outcome.ended.reason]
    assert "resident" in notes_of(outcome)["raw"]["timeline"]


def test_legs_that_are_late_are_killed_and_the_guest_is_kept(host_attestation: HostAttestation) -> None:
    spool = Spool(all_resident)
    outcome, grants, agent = turns(host_attestation, spool, leg_timeout_s=0.1)
    assert outcome.ended is not None
    assert outcome.ended.outcome == "excluded"
    assert "did not end within 0.1 s" in outcome.ended.reason
    assert {request["leg"] for request in agent.asked["kill"]} == set(spool.legs.values())
    assert len(spool.legs) == 2
    assert not grants.ended


def test_guest_that_does_not_confirm_the_kill_is_not_used_again(host_attestation: HostAttestation) -> None:
    spool = Spool(all_resident)
    spool.answers["kill"] = {"killed": True}
    outcome, grants, _ = turns(host_attestation, spool, leg_timeout_s=0.1)
    assert outcome.ended is not None
    assert "did not end within 0.1 s" in outcome.ended.reason
    assert grants.ended == [outcome.ended.reason]


def test_legs_that_have_exited_are_not_killed(host_attestation: HostAttestation) -> None:
    """The guest is gone when the turns are over: nothing runs there, and the next row may use it."""
    spool = all_exit_when_the_last_is_resident()
    spool.answers["drop"] = vanish
    outcome, grants, agent = turns(host_attestation, spool)
    assert outcome.ended is not None
    assert outcome.ended.outcome == "excluded"
    assert outcome.ended.reason.startswith("protected leg: ")
    assert "is gone" in outcome.ended.reason
    notes = notes_of(outcome)
    assert "exit" in notes["protected"]
    assert "exit" in notes["raw"]
    assert "kill" not in agent.asked
    assert not grants.ended


def test_one_leg_that_has_exited_is_not_killed_with_the_other(host_attestation: HostAttestation) -> None:
    def told(role: str, _request: dict[str, Any]) -> list[Told]:
        if role == "raw":
            return [RESIDENT]
        spool.tell(spool.legs["raw"], "exit")
        return [RESIDENT]

    spool = Spool(told)
    outcome, grants, agent = turns(host_attestation, spool, leg_timeout_s=0.1)
    assert outcome.ended is not None
    assert "the protected leg did not end" in outcome.ended.reason
    assert {request["leg"] for request in agent.asked["kill"]} == {spool.legs["protected"]}
    assert not grants.ended


def test_event_of_another_rows_leg_is_passed_over(host_attestation: HostAttestation) -> None:
    """A leg of an earlier row may still have had events in the spool."""
    progress: Told = ("progress", {"units": 1, "elapsed_ns": 1, "loss": "0.5"})
    spool = all_exit_when_the_last_is_resident(before=[progress], by="raw-000000000000")
    outcome, grants, _ = turns(host_attestation, spool)
    assert outcome.ended is not None
    assert "callback never reported" in outcome.ended.reason
    assert "progress" not in notes_of(outcome)["raw"]["timeline"]
    assert not grants.ended


@pytest.mark.parametrize("what", ["a second account", "an event of a leg"])
def test_round_gives_one_account_of_its_turns_and_no_event_of_a_leg(what: str, host_attestation: HostAttestation) -> None:
    claims = evidence.borders_claims(nonce="0" * 64, roles=["raw", "protected"], turns=[], borders=[])
    account: Told = ("borders", {"borders": tokens.sign(claims, key=KEY, typ=evidence.TYP_BORDERS)})
    later = account if what == "a second account" else RESIDENT
    outcome, grants, _ = turns(host_attestation, all_exit_when_the_last_is_resident(before=[account, later]))
    assert outcome.ended is not None
    assert outcome.ended.outcome == "error"
    assert f"expected turns and one account of their borders, saw {later[0]}" in outcome.ended.reason
    assert notes_of(outcome)["borders"] == account[1]["borders"]
    assert len(grants.ended) == 1
