"""What both sides must agree on byte for byte."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire.canonical import b64u, sha256_hex
from pytest_glasshouse.wire.tokens import expect, public_text, sign, thumbprint

SERVER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DIGEST = sha256_hex(b"something")
CNF = {
    "hpke": ev.hpke_text(X25519PrivateKey.from_private_bytes(bytes(range(32))).public_key()),
    "sig": public_text(SERVER.public_key()),
}


def test_a_composite_depends_on_every_component_and_on_no_order() -> None:
    one = ev.composite({"a": DIGEST, "b": DIGEST})
    assert one == ev.composite({"b": DIGEST, "a": DIGEST})
    assert len({one, ev.composite({"a": DIGEST}), ev.composite({"a": DIGEST, "c": DIGEST})}) == 3


def test_the_evidence_has_exactly_the_claims_of_its_shape() -> None:
    claims = ev.evidence_claims(
        ak=SERVER.public_key(), sub="s", aud="a", iat=10, jti="j", nonce="n", policy=DIGEST, plan=DIGEST,
        hpke=X25519PrivateKey.generate().public_key(), sig=SERVER.public_key(), components={"a": DIGEST}, manifest=DIGEST,
        manifest_version=1, container="c", observed=ev.ANTIDEBUG_STRICT, memory={"locked": True, "bytes": 1},
        state_head=DIGEST,
    )  # fmt: skip
    expect(claims, ev.EVIDENCE_SHAPE)
    expect(claims["antidebug"], ev.ANTIDEBUG_SHAPE)  # type: ignore[arg-type]
    expect(claims["memory"], ev.MEMORY_SHAPE)  # type: ignore[arg-type]
    expect(claims["state"], ev.STATE_SHAPE)  # type: ignore[arg-type]
    ev.read_cnf(claims["cnf"])
    assert claims["exp"] == 10 + ev.EVIDENCE_LIFETIME_S


def test_head_and_exit_have_exactly_the_claims_of_their_shapes() -> None:
    expect(ev.head_claims(nonce="n", head=DIGEST, count=8, adapter=DIGEST), ev.HEAD_SHAPE)
    leaving = ev.exit_claims(nonce="n", head_token="h", process_gone=True, exit_status=0, workspace_entries=0, gpu={}, scan={})
    expect(leaving, ev.EXIT_SHAPE)
    assert leaving["head"] == sha256_hex(b"h")


def test_a_leg_without_a_journal_exits_without_a_head() -> None:
    leaving = ev.exit_claims(nonce="n", head_token="", process_gone=True, exit_status=0, workspace_entries=0, gpu={}, scan={})
    assert leaving["head"] == ""


def test_a_key_is_sealed_for_one_purpose() -> None:
    infos = {
        ev.release_info("token", DIGEST),
        ev.release_info("tokem", DIGEST),
        ev.release_info("token", DIGEST[::-1]),
        ev.adapter_info(DIGEST, "token"),
        ev.registration_info(DIGEST, "token"),
    }
    assert len(infos) == 5


def test_an_enrolment_is_proven_for_one_grant_by_one_key() -> None:
    proof = ev.prove_enrolment("grant", key=SERVER)
    ev.check_enrolment("grant", proof, key=SERVER.public_key())
    for grant, key in (("another", SERVER), ("grant", Ed25519PrivateKey.generate())):
        with pytest.raises(IntegrityError) as caught:
            ev.check_enrolment(grant, proof, key=key.public_key())
        assert caught.value.reason == "proof"


@pytest.mark.parametrize("text", ["", b64u(bytes(31)), b64u(bytes(33)), "AA=="])
def test_a_sealing_key_of_another_length_is_malformed(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        ev.hpke_key(text)
    assert caught.value.reason == "malformed"


def a_result(**changes: object) -> str:
    claims: dict[str, object] = {
        "iss": thumbprint(SERVER.public_key()), "sub": "s", "iat": 1, "exp": 2, "jti": "j", "eat_nonce": "n",
        "eat_profile": ev.EAR_PROFILE, "ear_verifier_id": ev.VERIFIER_ID, "ear_status": "affirming", "cnf": CNF,
        "policy": DIGEST, "plan": DIGEST, "manifest": DIGEST, "composite": DIGEST, "container": "c", "attempt": 1,
        "evidence_sha256": DIGEST, "run_plan": DIGEST, "submods": {},
    }  # fmt: skip
    return sign({**claims, **changes}, key=SERVER, typ=ev.TYP_RESULT)


def verified(token: str) -> dict[str, object]:
    return dict(
        ev.verify_result(token, server=SERVER.public_key(), nonce="n", **CNF, manifest=DIGEST, policy=DIGEST, plan=DIGEST)
    )


def test_a_result_for_this_session_is_accepted() -> None:
    assert verified(a_result())["attempt"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "another"},
        {"eat_nonce": "another"},
        {"eat_profile": "another"},
        {"cnf": {**CNF, "hpke": CNF["sig"]}},
        {"cnf": {**CNF, "sig": CNF["hpke"]}},
        {"manifest": DIGEST[::-1]},
        {"policy": DIGEST[::-1]},
        {"plan": DIGEST[::-1]},
        {"ear_status": "warning"},
    ],
    ids=str,
)
def test_a_result_for_another_session_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(IntegrityError) as caught:
        verified(a_result(**changes))
    assert caught.value.reason == "result-binding"


def test_a_result_with_an_extra_claim_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        verified(a_result(extra=1))
    assert caught.value.reason == "claims-set"


def test_every_observed_value_is_an_integer_or_a_list_of_names() -> None:
    """They are compared in their canonical form, so there is one spelling of each."""
    assert all(type(value) is int or value == [] for value in ev.ANTIDEBUG_STRICT.values())
