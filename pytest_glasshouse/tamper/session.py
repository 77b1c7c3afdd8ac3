"""Nonces and limits: used twice, too late, by somebody else, too often."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.attestation.limits import Caps
from pytest_glasshouse.attestation.server import CHALLENGE_TTL_S
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.case import Case, Nonce
from pytest_glasshouse.tamper.testbed import PLAN, SUB, TamperTestbed
from pytest_glasshouse.wire.canonical import Json

Play = Callable[[TamperTestbed], None]
_OTHER_SUB = "run-1/row-1/round-2"
_THREADS = 8


def _replay(stage: TamperTestbed) -> None:
    """The same evidence again, after it was released once."""
    attempt = stage.attempt()
    token = attempt.token()
    attempt.release(token)
    stage.count_from_here()
    attempt.release(token)


def _fresh_evidence_on_a_spent_nonce(stage: TamperTestbed) -> None:
    attempt = stage.attempt()
    attempt.release()
    stage.count_from_here()
    attempt.claims["jti"] = "another"
    attempt.release()


def _nonce(value: Json) -> Case:
    def play(stage: TamperTestbed) -> None:
        attempt = stage.attempt()
        attempt.claims["eat_nonce"] = value
        attempt.release()

    name = {"str": "empty" if value == "" else "unknown", "int": "a-number", "list": "a-list"}[type(value).__name__]
    return _case(f"nonce-{name}", "nonce", "release 2", play, nonce="open")


def _missing(stage: TamperTestbed) -> None:
    attempt = stage.attempt()
    del attempt.claims["eat_nonce"]
    attempt.release()


def _expired(stage: TamperTestbed) -> None:
    """The challenge is too old, the evidence is not."""
    attempt = stage.attempt()
    stage.now += CHALLENGE_TTL_S
    attempt.claims.update(iat=stage.now, exp=stage.now + 60)
    attempt.release()


def _after_restart(stage: TamperTestbed) -> None:
    attempt = stage.attempt()
    stage.restart()
    stage.count_from_here()
    attempt.claims["aud"] = stage.embedded.server.kid
    attempt.release()


def _second_try(stage: TamperTestbed) -> None:
    """A bad try burns the nonce: the good one after it comes too late."""
    attempt = stage.attempt()
    attempt.claims["container"] = "another"
    try:
        attempt.release()
    except RefusedError as refusal:
        if refusal.reason != "container":
            raise
    attempt.restored().release()


def _all_at_once(stage: TamperTestbed) -> None:
    """Several threads, one nonce: exactly one is served."""
    attempt = stage.attempt()
    token = attempt.token()

    def one(_: int) -> str | None:
        try:
            attempt.release(token)
        except RefusedError as refusal:
            return refusal.reason
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        seen = list(pool.map(one, range(_THREADS)))
    if seen.count(None) == 1:  # the one that is right
        stage.count_from_here()
    refused = {reason for reason in seen if reason is not None}
    if len(refused) == 1:
        raise RefusedError(refused.pop())


def _of_another_session(stage: TamperTestbed) -> None:
    """The same key, enrolled for two sessions: evidence about one does not use the other's nonce, nor use it up."""
    stage.enrol(_OTHER_SUB)
    theirs = stage.attempt()
    ours = stage.attempt(_OTHER_SUB)
    ours.claims["eat_nonce"] = theirs.nonce
    stage.attacked = theirs
    ours.release()


def _of_another_key(stage: TamperTestbed) -> None:
    """A validly signed token of another guest does not use up this guest's nonce."""
    stranger = Ed25519PrivateKey.generate()
    stage.enrol(_OTHER_SUB, ak=stranger)
    theirs = stage.attempt()
    ours = stage.attempt(_OTHER_SUB, ak=stranger)
    ours.claims.update(eat_nonce=theirs.nonce, sub="nobody")
    stage.attacked = theirs
    ours.release()


def _grant_used_up(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, limit=1))
    stage.attempt(_OTHER_SUB).release()
    stage.count_from_here()
    stage.attempt(_OTHER_SUB).release()


def _limited_package(stage: TamperTestbed) -> None:
    """The policy's limit counts every grant's releases of the package together."""
    policy = stage.make_policy(name="one release", limit=1)
    stage.sealed = stage.seal()
    stage.register(stage.sealed, policy)
    for sub in ("limited-1", "limited-2"):
        stage.enrol(sub, grant=stage.grant(sub, policy=policy.sha256))
    stage.attempt("limited-1").release()
    stage.count_from_here()
    stage.attempt("limited-2").release()


def _limit_after_restart(stage: TamperTestbed) -> None:
    """The count is durable: a restarted server has not forgotten it."""
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, limit=1))
    stage.attempt(_OTHER_SUB).release()
    stage.restart()
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, limit=1))
    stage.count_from_here()
    stage.attempt(_OTHER_SUB).release()


def _flood(stage: TamperTestbed) -> None:
    for _ in range(Caps().open_challenges + 1):
        stage.client.challenge(sub=SUB, plan=PLAN)


def _all_open(stage: TamperTestbed) -> None:
    """Two runs together take all that the server holds."""
    stage.caps = Caps(challenges=2)
    stage.restart()
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, run="run-2"))
    for sub in (SUB, _OTHER_SUB, SUB):
        stage.client.challenge(sub=sub, plan=PLAN)


def _flood_of_a_run(stage: TamperTestbed) -> None:
    """One run asks and spends in every session it has: it is refused what would be the others', and they are served."""
    stage.caps = Caps(challenges=8, challenges_of_a_run=6)
    stage.restart()
    stage.enrol("theirs", grant=stage.grant("theirs", run="run-2"))
    refused = None
    for number in range(9):
        sub = f"flood-{number}"
        try:
            stage.enrol(sub)
            attempt = stage.attempt(sub)
        except RefusedError as refusal:
            refused = refusal
            break
        attempt.claims["container"] = "another"
        with contextlib.suppress(RefusedError):
            attempt.release()
    others_are_served(stage, "theirs")
    if refused is not None:
        raise refused


def others_are_served(stage: TamperTestbed, sub: str) -> None:
    """Another run's whole lifecycle, in the middle of a flood. What it is refused is not what the flood is refused."""
    try:
        stage.attempt(sub).live_through()
    except RefusedError as refusal:
        raise RefusedError("others-harmed", refusal.reason) from None
    stage.count_from_here()


def _short_grant(stage: TamperTestbed) -> None:
    stage.enrol(_OTHER_SUB, grant=stage.grant(_OTHER_SUB, expires_in=30))


def _grant_over_at_challenge(stage: TamperTestbed) -> None:
    _short_grant(stage)
    stage.now += 30
    stage.attempt(_OTHER_SUB)


def _grant_over_at_release(stage: TamperTestbed) -> None:
    _short_grant(stage)
    attempt = stage.attempt(_OTHER_SUB)
    stage.now += 30
    attempt.release()


def _repeating_randomness(stage: TamperTestbed) -> None:
    """A generator that repeats itself must not give two sessions one nonce."""
    stage.random_bytes = bytes
    stage.attempt()
    stage.attempt()


def _unknown_sub(stage: TamperTestbed) -> None:
    stage.client.challenge(sub="nobody", plan=PLAN)


def _plan_no_digest(stage: TamperTestbed) -> None:
    stage.client.challenge(sub=SUB, plan="anything")


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
