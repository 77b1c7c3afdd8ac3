"""Nonces and limits: used twice, expired, another session's, or exceeded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.attestation.nonces import CHALLENGE_TTL_S
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.result import Nonce
from pytest_glasshouse.tamper.testbed import PLAN, SUB, TamperTestbed
from pytest_glasshouse.wire.canonical import Json

Play = Callable[[TamperTestbed], None]
_OTHER_SUB = "run-1/row-1/round-2"
_THREADS = 8


def _replay(testbed: TamperTestbed) -> None:
    """The same evidence a second time."""
    attempt = testbed.attempt()
    token = attempt.token()
    attempt.release(token)
    testbed.reset_release_count()
    attempt.release(token)


def _fresh_evidence_on_a_spent_nonce(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.release()
    testbed.reset_release_count()
    attempt.claims["jti"] = "another"
    attempt.release()


def _nonce(value: Json) -> Case:
    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        attempt.claims["eat_nonce"] = value
        attempt.release()

    name = {"str": "empty" if value == "" else "unknown", "int": "a-number", "list": "a-list"}[type(value).__name__]
    return _case(f"nonce-{name}", "nonce", "release 2", play, nonce="open")


def _missing(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    del attempt.claims["eat_nonce"]
    attempt.release()


def _expired(testbed: TamperTestbed) -> None:
    """The challenge is too old, the evidence is not."""
    attempt = testbed.attempt()
    testbed.now += CHALLENGE_TTL_S
    attempt.claims.update(iat=testbed.now, exp=testbed.now + 60)
    attempt.release()


def _after_restart(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    testbed.restart()
    testbed.reset_release_count()
    attempt.claims["aud"] = testbed.embedded.server.kid
    attempt.release()


def _second_try(testbed: TamperTestbed) -> None:
    """A refused attempt spends the nonce: valid evidence after it is refused too."""
    attempt = testbed.attempt()
    attempt.claims["container"] = "another"
    try:
        attempt.release()
    except RefusedError as refusal:
        if refusal.reason != "container":
            raise
    attempt.unchanged().release()


def _all_at_once(testbed: TamperTestbed) -> None:
    """Several threads, one nonce: exactly one release."""
    attempt = testbed.attempt()
    token = attempt.token()

    def one(_: int) -> str | None:
        try:
            attempt.release(token)
        except RefusedError as refusal:
            return refusal.reason
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        seen = list(pool.map(one, range(_THREADS)))
    if seen.count(None) == 1:  # the one legitimate release
        testbed.reset_release_count()
    refused = {reason for reason in seen if reason is not None}
    if len(refused) == 1:
        raise RefusedError(refused.pop())


def _of_another_session(testbed: TamperTestbed) -> None:
    """One key enrolled for two sessions: evidence about one can neither use nor spend the other's nonce."""
    testbed.enrol(_OTHER_SUB)
    theirs = testbed.attempt()
    ours = testbed.attempt(_OTHER_SUB)
    ours.claims["eat_nonce"] = theirs.nonce
    testbed.attacked = theirs
    ours.release()


def _of_another_key(testbed: TamperTestbed) -> None:
    """A validly signed token of another guest does not spend this guest's nonce."""
    stranger = Ed25519PrivateKey.generate()
    testbed.enrol(_OTHER_SUB, ak=stranger)
    theirs = testbed.attempt()
    ours = testbed.attempt(_OTHER_SUB, ak=stranger)
    ours.claims.update(eat_nonce=theirs.nonce, sub="nobody")
    testbed.attacked = theirs
    ours.release()


def _grant_used_up(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, limit=1))
    testbed.attempt(_OTHER_SUB).release()
    testbed.reset_release_count()
    testbed.attempt(_OTHER_SUB).release()


def _limited_package(testbed: TamperTestbed) -> None:
    """The policy's limit counts the package's releases under all grants together."""
    policy = testbed.make_policy(name="one release", limit=1)
    testbed.sealed = testbed.seal()
    testbed.register(testbed.sealed, policy)
    for sub in ("limited-1", "limited-2"):
        testbed.enrol(sub, grant=testbed.grant(sub, policy=policy.sha256))
    testbed.attempt("limited-1").release()
    testbed.reset_release_count()
    testbed.attempt("limited-2").release()


def _limit_after_restart(testbed: TamperTestbed) -> None:
    """The count survives a restart of the server."""
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, limit=1))
    testbed.attempt(_OTHER_SUB).release()
    testbed.restart()
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, limit=1))
    testbed.reset_release_count()
    testbed.attempt(_OTHER_SUB).release()


def _flood(testbed: TamperTestbed) -> None:
    for _ in range(Caps().open_challenges + 1):
        testbed.client.challenge(sub=SUB, plan=PLAN)


def _all_open(testbed: TamperTestbed) -> None:
    """Two runs together fill the server."""
    testbed.caps = Caps(challenges=2)
    testbed.restart()
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, run="run-2"))
    for sub in (SUB, _OTHER_SUB, SUB):
        testbed.client.challenge(sub=sub, plan=PLAN)


def _flood_of_a_run(testbed: TamperTestbed) -> None:
    """One run asks for and spends nonces in many sessions: it is refused at its limit, and another run is served."""
    testbed.caps = Caps(challenges=8, challenges_of_a_run=6)
    testbed.restart()
    testbed.enrol("theirs", grant=testbed.grant("theirs", run="run-2"))
    refused = None
    for number in range(9):
        sub = f"flood-{number}"
        try:
            testbed.enrol(sub)
            attempt = testbed.attempt(sub)
        except RefusedError as refusal:
            refused = refusal
            break
        attempt.claims["container"] = "another"
        with contextlib.suppress(RefusedError):
            attempt.release()
    others_are_served(testbed, "theirs")
    if refused is not None:
        raise refused


def others_are_served(testbed: TamperTestbed, sub: str) -> None:
    """Run another run's whole lifecycle during a flood; its refusal has a reason of its own."""
    try:
        testbed.attempt(sub).run_lifecycle()
    except RefusedError as refusal:
        raise RefusedError("others-harmed", refusal.reason) from None
    testbed.reset_release_count()


def _short_grant(testbed: TamperTestbed) -> None:
    testbed.enrol(_OTHER_SUB, grant=testbed.grant(_OTHER_SUB, expires_in=30))


def _grant_over_at_challenge(testbed: TamperTestbed) -> None:
    _short_grant(testbed)
    testbed.now += 30
    testbed.attempt(_OTHER_SUB)


def _grant_over_at_release(testbed: TamperTestbed) -> None:
    _short_grant(testbed)
    attempt = testbed.attempt(_OTHER_SUB)
    testbed.now += 30
    attempt.release()


def _repeating_randomness(testbed: TamperTestbed) -> None:
    """A random generator that repeats must not give two sessions the same nonce."""
    testbed.random_bytes = bytes
    testbed.attempt()
    testbed.attempt()


def _unknown_sub(testbed: TamperTestbed) -> None:
    testbed.client.challenge(sub="nobody", plan=PLAN)


def _plan_no_digest(testbed: TamperTestbed) -> None:
    testbed.client.challenge(sub=SUB, plan="anything")


def _case(name: str, reason: str, caught_by: str, play: Play, *, nonce: Nonce = "unasked", published: bool = False) -> Case:
    return Case(name=name, play=play, expected_reason=reason, caught_by=caught_by, nonce=nonce, published=published)


PUBLISHED = (_case("nonce-replay", "nonce", "release 2", _replay, nonce="spent", published=True),)

CASES = (
    _case("nonce-spent-evidence-new", "nonce", "release 2", _fresh_evidence_on_a_spent_nonce, nonce="spent"),
    _nonce("00" * 32),
    _nonce(""),
    _nonce(7),
    _nonce([]),
    _case("nonce-missing", "nonce", "release 2", _missing, nonce="open"),
    _case("nonce-expired", "nonce", "release 2", _expired),
    _case("nonce-after-restart", "nonce", "release 2", _after_restart),
    _case("nonce-second-try", "nonce", "release 3", _second_try, nonce="spent"),
    _case("nonce-eight-at-once", "nonce", "release 3", _all_at_once, nonce="spent"),
    _case("nonce-of-another-session", "nonce", "release 2", _of_another_session, nonce="open"),
    _case("nonce-of-another-key", "nonce", "release 2", _of_another_key, nonce="open"),
    _case("release-limit-of-the-grant", "release-limit", "release 5", _grant_used_up, nonce="spent"),
    _case("release-limit-of-the-policy", "release-limit", "release 5", _limited_package, nonce="spent"),
    _case("release-limit-after-restart", "release-limit", "release 5", _limit_after_restart, nonce="spent"),
    _case("challenge-flood", "busy", "challenge", _flood),
    _case("challenges-all-taken", "busy", "challenge", _all_open),
    _case("challenge-flood-of-one-run", "busy", "challenge", _flood_of_a_run),
    _case("challenge-for-nobody", "sub", "challenge", _unknown_sub),
    _case("challenge-without-a-plan", "malformed", "challenge", _plan_no_digest),
    _case("challenge-randomness-repeats", "internal", "challenge", _repeating_randomness),
    _case("grant-expired-at-challenge", "grant", "challenge", _grant_over_at_challenge),
    _case("grant-expired-at-release", "grant", "release 5", _grant_over_at_release),
)
