"""Registrations and grants that are not the owner's, are for another server or package, or roll a policy back."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.session import others_are_served
from pytest_glasshouse.tamper.testbed import SIGNED_BY_NOBODY, SUB, WEAK_KEY, TamperTestbed
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_GRANT, TYP_REGISTRATION, hpke_text, prove_enrolment
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import peek, public_text, sign

_OTHER_SUB = "run-1/row-1/round-2"


def _case(name: str, reason: str, caught_by: str, play: Callable[[TamperTestbed], None]) -> Case:
    return Case(name=name, play=play, expected_reason=reason, caught_by=caught_by)


def _by_a_stranger(testbed: TamperTestbed) -> None:
    testbed.client.register(testbed.registration(testbed.seal(), testbed.policy, owner=Owner.generate()))


def _foreign_manifest(testbed: TamperTestbed) -> None:
    ours, testbed.owner = testbed.owner, Owner.generate()
    theirs, testbed.owner = testbed.seal(), ours
    testbed.register(theirs, testbed.policy)


def _registration_for_another_server(testbed: TamperTestbed) -> None:
    """The data key is sealed to this server, the registration names another."""
    elsewhere, sealed = Ed25519PrivateKey.generate().public_key(), testbed.seal()
    hpke = testbed.embedded.hpke_public
    testbed.client.register(
        testbed.owner.register(
            server=elsewhere, server_hpke=hpke, manifest=sealed.manifest, policy=testbed.policy, data_key=sealed.data_key
        )
    )


def _key_for_another_server(testbed: TamperTestbed) -> None:
    elsewhere = hpke_text(X25519PrivateKey.generate().public_key())
    testbed.client.register(testbed.registration(testbed.seal(), testbed.policy, hpke=elsewhere))


def _key_cut(testbed: TamperTestbed) -> None:
    sealed = testbed.seal()
    testbed.register(dataclasses.replace(sealed, data_key=Secret(sealed.data_key.reveal()[:31])), testbed.policy)


def _registration_with(**more: Json) -> Callable[[TamperTestbed], None]:
    def play(testbed: TamperTestbed) -> None:
        claims = {**peek(testbed.registration(testbed.seal(), testbed.policy)), **more}
        testbed.client.register(sign(claims, key=testbed.owner_signing, typ=TYP_REGISTRATION))

    return play


def _grant_with(**more: Json) -> Callable[[TamperTestbed], None]:
    def play(testbed: TamperTestbed) -> None:
        claims = {**peek(testbed.grant(_OTHER_SUB)), **more}
        testbed.enrol(_OTHER_SUB, grant=sign(claims, key=testbed.owner_signing, typ=TYP_GRANT))

    return play


def _policy_rolled_back(testbed: TamperTestbed) -> None:
    testbed.register(testbed.seal(), testbed.make_policy(version=2))
    testbed.register(testbed.seal(), testbed.policy)


def _policy_rolled_back_after_restart(testbed: TamperTestbed) -> None:
    testbed.register(testbed.seal(), testbed.make_policy(version=2))
    testbed.restart()


def _policy_changed(testbed: TamperTestbed) -> None:
    testbed.register(testbed.seal(), testbed.make_policy(archive=None))


def _registered_under_another_policy(testbed: TamperTestbed) -> None:
    testbed.register(testbed.sealed, testbed.make_policy(name="laxer", archive=None))


def _manifest_too_old(testbed: TamperTestbed) -> None:
    testbed.register(testbed.seal(version=1), testbed.make_policy(name="newer", manifest_version=2))


def _grant_by_a_stranger(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, owner=Owner.generate()))


def _grant_for_another_server(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, server=Ed25519PrivateKey.generate()))


def _grant_expired(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, expires_in=0))


def _grant_without_releases(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, limit=0))


def _grant_for_unknown_package(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, package=sha256_hex(b"another")))


def _grant_under_another_policy(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, policy=sha256_hex(b"another")))


def _proof_by_another_key(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, prover=Ed25519PrivateKey.generate())


def _without_proof(testbed: TamperTestbed) -> None:
    grant = testbed.grant(_OTHER_SUB)
    testbed.client.enrol(grant=grant, ak=public_text(testbed.ak.public_key()), proof="")


def _proof_of_another_grant(testbed: TamperTestbed) -> None:
    """The key's proof for another grant."""
    proof = prove_enrolment(testbed.grant(SUB), key=testbed.ak)
    testbed.client.enrol(grant=testbed.grant(_OTHER_SUB), ak=public_text(testbed.ak.public_key()), proof=proof)


def _grant_replayed(testbed: TamperTestbed) -> None:
    """A grant whose release is used up is presented again: no second key is released."""
    grant = testbed.grant(_OTHER_SUB, limit=1)
    testbed.enrol(_OTHER_SUB, grant=grant)
    testbed.attempt(_OTHER_SUB).release()
    testbed.reset_release_count()
    testbed.enrol(_OTHER_SUB, grant=grant)
    testbed.attempt(_OTHER_SUB).release()


def _grant_replayed_by_another_key(testbed: TamperTestbed) -> None:
    grant = testbed.grant(_OTHER_SUB)
    testbed.enrol(_OTHER_SUB, grant=grant)
    testbed.enrol(_OTHER_SUB, grant=grant, ak=Ed25519PrivateKey.generate())


def _session_taken(testbed: TamperTestbed) -> None:
    """Another key asks for the name of an enrolled session, under an equal grant."""
    testbed.enrol(SUB, ak=Ed25519PrivateKey.generate())


def _grant_renewed(testbed: TamperTestbed) -> None:
    """A second grant for an enrolled session is refused."""
    testbed.enrol(SUB, grant=testbed.grant(SUB, limit=2000))


def _packages_all_taken(testbed: TamperTestbed) -> None:
    testbed.caps = Caps(packages=2)
    testbed.restart()
    testbed.register(testbed.seal(), testbed.policy)
    testbed.register(testbed.sealed, testbed.policy)  # a repeated request is answered again
    testbed.register(testbed.seal(), testbed.policy)


def _sessions_all_taken(testbed: TamperTestbed) -> None:
    """Two runs fill the server, neither above its own limit."""
    testbed.caps = Caps(sessions=2)
    testbed.restart()
    grant = testbed.grant(_OTHER_SUB, run="run-2")
    for _ in range(2):  # a repeated request is answered again
        testbed.enrol(_OTHER_SUB, grant=grant)
    testbed.enrol("run-3/row-1/round-1", grant=testbed.grant("run-3/row-1/round-1", run="run-3"))


def _sessions_flood_of_a_run(testbed: TamperTestbed) -> None:
    """One run enrols session after session with valid grants; another run is still served."""
    testbed.caps = Caps(sessions=8, sessions_of_a_run=5)
    testbed.restart()
    refused = None
    for number in range(8):
        try:
            testbed.enrol(f"flood-{number}")
        except RefusedError as refusal:
            refused = refusal
            break
    with contextlib.suppress(RefusedError):
        testbed.enrol("theirs", grant=testbed.grant("theirs", run="run-2"))
    others_are_served(testbed, "theirs")
    if refused is not None:
        raise refused


def _of_another_run(testbed: TamperTestbed) -> None:
    """A grant is for its own session; evidence about a session of another run is refused."""
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, run="run-2"))
    attempt = testbed.attempt(_OTHER_SUB)
    attempt.claims["sub"] = "run-3/row-1/round-1"
    attempt.release()


def _key_of_small_order(testbed: TamperTestbed) -> None:
    """A key of small order: anyone can forge its proof of possession."""
    testbed.client.enrol(grant=testbed.grant(_OTHER_SUB), ak=b64u(WEAK_KEY), proof=b64u(SIGNED_BY_NOBODY))


CASES = (
    _case("registration-by-a-stranger", "jws-header", "register 1", _by_a_stranger),
    _case("registration-for-another-server", "registration", "register 1", _registration_for_another_server),
    _case("registration-of-a-foreign-manifest", "jws-header", "register 2", _foreign_manifest),
    _case("registration-of-an-old-manifest", "manifest-version", "register 2", _manifest_too_old),
    _case("registration-with-a-claim-nobody-asked-for", "claims-set", "register 1", _registration_with(force=1)),
    _case("registration-of-a-policy-that-is-none", "claims-type", "register 1", _registration_with(policy="any")),
    _case("policy-rolled-back", "policy-rollback", "register 3", _policy_rolled_back),
    _case("policy-rolled-back-after-restart", "policy-rollback", "register 3", _policy_rolled_back_after_restart),
    _case("policy-changed-under-its-version", "policy-rollback", "register 3", _policy_changed),
    _case("data-key-sealed-to-another-server", "registration", "register 4", _key_for_another_server),
    _case("data-key-cut", "registration", "register 4", _key_cut),
    _case("package-under-a-laxer-policy", "registration", "register 4", _registered_under_another_policy),
    _case("grant-by-a-stranger", "jws-header", "enrol 1", _grant_by_a_stranger),
    _case("grant-for-another-server", "grant", "enrol 1", _grant_for_another_server),
    _case("grant-expired", "grant", "enrol 1", _grant_expired),
    _case("grant-with-a-claim-nobody-asked-for", "claims-set", "enrol 1", _grant_with(force=1)),
    _case("grant-of-a-limit-in-words", "claims-type", "enrol 1", _grant_with(release_limit="1000")),
    _case("grant-without-releases", "grant", "enrol 1", _grant_without_releases),
    _case("grant-for-an-unknown-package", "grant", "enrol 1", _grant_for_unknown_package),
    _case("grant-under-another-policy", "grant", "enrol 1", _grant_under_another_policy),
    _case("proof-by-another-key", "proof", "enrol 2", _proof_by_another_key),
    _case("enrolment-without-proof", "proof", "enrol 2", _without_proof),
    _case("proof-under-a-key-of-small-order", "malformed", "enrol 2", _key_of_small_order),
    _case("proof-of-another-grant", "proof", "enrol 2", _proof_of_another_grant),
    _case("grant-replayed", "release-limit", "release 5", _grant_replayed),
    _case("grant-replayed-by-another-key", "grant", "enrol 3", _grant_replayed_by_another_key),
    _case("session-taken-by-another-key", "grant", "enrol 3", _session_taken),
    _case("session-granted-again", "grant", "enrol 3", _grant_renewed),
    _case("grant-of-another-run", "jwt-claims", "appraise 2", _of_another_run),
    _case("packages-all-taken", "busy", "register 4", _packages_all_taken),
    _case("sessions-all-taken", "busy", "enrol 3", _sessions_all_taken),
    _case("enrolment-flood-of-one-run", "busy", "enrol 3", _sessions_flood_of_a_run),
)
