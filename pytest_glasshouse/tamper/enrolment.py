"""Before evidence: registrations and grants that are not the owner's, or not for this, or go back."""

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


def _by_a_stranger(stage: TamperTestbed) -> None:
    stage.client.register(stage.registration(stage.seal(), stage.policy, owner=Owner.generate()))


def _foreign_manifest(stage: TamperTestbed) -> None:
    ours, stage.owner = stage.owner, Owner.generate()
    theirs, stage.owner = stage.seal(), ours
    stage.register(theirs, stage.policy)


def _registration_for_another_server(stage: TamperTestbed) -> None:
    """The data key is sealed to this server, the owner's word is meant for another."""
    elsewhere, sealed = Ed25519PrivateKey.generate().public_key(), stage.seal()
    hpke = stage.embedded.hpke_public
    stage.client.register(
        stage.owner.register(
            server=elsewhere, server_hpke=hpke, manifest=sealed.manifest, policy=stage.policy, data_key=sealed.data_key
        )
    )


def _key_for_another_server(stage: TamperTestbed) -> None:
    elsewhere = hpke_text(X25519PrivateKey.generate().public_key())
    stage.client.register(stage.registration(stage.seal(), stage.policy, hpke=elsewhere))


def _key_cut(stage: TamperTestbed) -> None:
    sealed = stage.seal()
    stage.register(dataclasses.replace(sealed, data_key=Secret(sealed.data_key.reveal()[:31])), stage.policy)


def _registration_with(**more: Json) -> Callable[[TamperTestbed], None]:
    def play(stage: TamperTestbed) -> None:
        claims = {**peek(stage.registration(stage.seal(), stage.policy)), **more}
        stage.client.register(sign(claims, key=stage.owner_signing, typ=TYP_REGISTRATION))

    return play


def _grant_with(**more: Json) -> Callable[[TamperTestbed], None]:
    def play(stage: TamperTestbed) -> None:
        claims = {**peek(stage.grant(_OTHER_SUB)), **more}
        stage.enrol(_OTHER_SUB, grant=sign(claims, key=stage.owner_signing, typ=TYP_GRANT))

    return play


def _policy_rolled_back(stage: TamperTestbed) -> None:
    stage.register(stage.seal(), stage.make_policy(version=2))
    stage.register(stage.seal(), stage.policy)


def _policy_rolled_back_after_restart(stage: TamperTestbed) -> None:
    stage.register(stage.seal(), stage.make_policy(version=2))
    stage.restart()


def _policy_changed(stage: TamperTestbed) -> None:
    stage.register(stage.seal(), stage.make_policy(archive=None))


def _registered_under_another_policy(stage: TamperTestbed) -> None:
    stage.register(stage.sealed, stage.make_policy(name="laxer", archive=None))


def _manifest_too_old(stage: TamperTestbed) -> None:
    stage.register(stage.seal(version=1), stage.make_policy(name="newer", manifest_version=2))


def _grant_by_a_stranger(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, owner=Owner.generate()))


def _grant_for_another_server(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, server=Ed25519PrivateKey.generate()))


def _grant_expired(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, expires_in=0))


def _grant_without_releases(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, limit=0))


def _grant_for_unknown_package(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, package=sha256_hex(b"another")))


def _grant_under_another_policy(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, policy=sha256_hex(b"another")))


def _proof_by_another_key(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, prover=Ed25519PrivateKey.generate())


def _without_proof(stage: TamperTestbed) -> None:
    leave = stage.grant(_OTHER_SUB)
    stage.client.enrol(grant=leave, ak=public_text(stage.ak.public_key()), proof="")


def _proof_of_another_grant(stage: TamperTestbed) -> None:
    """What the key signed when it was let in elsewhere."""
    proof = prove_enrolment(stage.grant(SUB), key=stage.ak)
    stage.client.enrol(grant=stage.grant(_OTHER_SUB), ak=public_text(stage.ak.public_key()), proof=proof)


def _grant_replayed(stage: TamperTestbed) -> None:
    """The grant that has had its release is presented again: it opens nothing a second time."""
    leave = stage.grant(_OTHER_SUB, limit=1)
    stage.enrol(_OTHER_SUB, grant=leave)
    stage.attempt(_OTHER_SUB).release()
    stage.count_from_here()
    stage.enrol(_OTHER_SUB, grant=leave)
    stage.attempt(_OTHER_SUB).release()


def _grant_replayed_by_another_key(stage: TamperTestbed) -> None:
    leave = stage.grant(_OTHER_SUB)
    stage.enrol(_OTHER_SUB, grant=leave)
    stage.enrol(_OTHER_SUB, grant=leave, ak=Ed25519PrivateKey.generate())


def _session_taken(stage: TamperTestbed) -> None:
    """The stolen name of a session that another key was enrolled for, under the very same kind of grant."""
    stage.enrol(SUB, ak=Ed25519PrivateKey.generate())


def _grant_renewed(stage: TamperTestbed) -> None:
    """A second grant for a taken session would reset nothing: it is refused."""
    stage.enrol(SUB, grant=stage.grant(SUB, limit=2000))


def _packages_all_taken(stage: TamperTestbed) -> None:
    stage.caps = Caps(packages=2)
    stage.restart()
    stage.register(stage.seal(), stage.policy)
    stage.register(stage.sealed, stage.policy)  # whoever is in may ask again
    stage.register(stage.seal(), stage.policy)


def _sessions_all_taken(stage: TamperTestbed) -> None:
    """By two runs, neither of which has too many."""
    stage.caps = Caps(sessions=2)
    stage.restart()
    leave = stage.grant(_OTHER_SUB, run="run-2")
    for _ in range(2):  # whoever is in may ask again
        stage.enrol(_OTHER_SUB, grant=leave)
    stage.enrol("run-3/row-1/round-1", grant=stage.grant("run-3/row-1/round-1", run="run-3"))


def _sessions_flood_of_a_run(stage: TamperTestbed) -> None:
    """One run's valid grants, one session after the other: the others' sessions have room, and are served."""
    stage.caps = Caps(sessions=8, sessions_of_a_run=5)
    stage.restart()
    refused = None
    for number in range(8):
        try:
            stage.enrol(f"flood-{number}")
        except RefusedError as refusal:
            refused = refusal
            break
    with contextlib.suppress(RefusedError):
        stage.enrol("theirs", grant=stage.grant("theirs", run="run-2"))
    others_are_served(stage, "theirs")
    if refused is not None:
        raise refused


def _of_another_run(stage: TamperTestbed) -> None:
    """A grant lets its own session in, not the one of another run that evidence is then about."""
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, run="run-2"))
    attempt = stage.attempt(_OTHER_SUB)
    attempt.claims["sub"] = "run-3/row-1/round-1"
    attempt.release()


def _key_of_small_order(stage: TamperTestbed) -> None:
    """Nobody has its private half, and everybody can prove that he has."""
    stage.client.enrol(grant=stage.grant(_OTHER_SUB), ak=b64u(WEAK_KEY), proof=b64u(SIGNED_BY_NOBODY))


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
