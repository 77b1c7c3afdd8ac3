"""The end of a session: heads and exits that are forked, forged, early, or of another session. No receipt is issued."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import Attempt, TamperTestbed
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_EXIT, TYP_HEAD

_OTHER = sha256_hex(b"another")


def _case(name: str, reason: str, caught_by: str, finish: Callable[[Attempt], object]) -> Case:
    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        attempt.release()
        attempt.run_journal()
        finish(attempt)

    return Case(name=name, play=play, expected_reason=reason, caught_by=f"complete {caught_by}", asset="receipt")


def _head(**changes: Json) -> Callable[[Attempt], object]:
    def finish(attempt: Attempt) -> object:
        head = tokens.sign({**attempt.head_claims(), **changes}, key=attempt.sig, typ=TYP_HEAD)
        return attempt.complete(head=head)

    return finish


def _exit(**changes: Json) -> Callable[[Attempt], object]:
    def finish(attempt: Attempt) -> object:
        head = attempt.head()
        exit_token = tokens.sign({**attempt.exit_claims(head), **changes}, key=attempt.ak, typ=TYP_EXIT)
        return attempt.complete(head=head, exit=exit_token)

    return finish


def _head_by(attempt: Attempt) -> object:
    return attempt.complete(head=tokens.sign(attempt.head_claims(), key=Ed25519PrivateKey.generate(), typ=TYP_HEAD))


def _head_by_the_agent(attempt: Attempt) -> object:
    return attempt.complete(head=tokens.sign(attempt.head_claims(), key=attempt.ak, typ=TYP_HEAD))


def _exit_by_the_leg(attempt: Attempt) -> object:
    head = attempt.head()
    return attempt.complete(head=head, exit=tokens.sign(attempt.exit_claims(head), key=attempt.sig, typ=TYP_EXIT))


def _exit_as_head(attempt: Attempt) -> object:
    exit_token = tokens.sign(attempt.exit_claims(attempt.head()), key=attempt.sig, typ=TYP_EXIT)
    return attempt.complete(head=exit_token)


def _forked(attempt: Attempt) -> object:
    """A second journal, signed by the same leg, with an exit of its own."""
    attempt.complete()
    attempt.journal.append("train_progress", {"step": 1})
    return attempt.complete()


def _forked_under_one_exit(attempt: Attempt) -> object:
    head = attempt.head()
    exit_token = attempt.exit(head)
    attempt.complete(head=head, exit=exit_token)
    attempt.journal.append("train_progress", {"step": 1})
    return attempt.complete(exit=exit_token)


def _second_exit(attempt: Attempt) -> object:
    attempt.complete()
    return _exit(workspace_entries=3)(attempt)


def _of_another_session(attempt: Attempt) -> object:
    other = attempt.testbed.attempt()
    other.release()
    return attempt.complete(nonce=other.nonce)


def _unknown(attempt: Attempt) -> object:
    return attempt.complete(nonce=_OTHER)


def _early(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.run_journal()
    attempt.complete()


def _after_refusal(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.claims["container"] = "another"
    with contextlib.suppress(RefusedError):  # its reason is another case's
        attempt.release()
    attempt.run_journal()
    attempt.complete()


CASES = (
    _case("head-by-another-key", "jws-header", "2", _head_by),
    _case("head-by-the-agent", "jws-header", "2", _head_by_the_agent),
    _case("head-that-is-an-exit", "jws-header", "2", _exit_as_head),
    _case("head-with-a-claim-more", "head-claims", "2", _head(verified=True)),
    _case("head-of-another-nonce", "head-claims", "2", _head(nonce=_OTHER)),
    _case("head-no-digest", "head-claims", "2", _head(head="")),
    _case("head-status-other", "head-claims", "2", _head(status="fine")),
    _case("head-completed-without-adapter", "head-claims", "2", _head(adapter="")),
    _case("head-failed-with-adapter", "head-claims", "2", _head(status="failed")),
    _case("head-count-a-string", "head-claims", "2", _head(count="8")),
    _case("head-of-another-session", "jws-header", "2", _of_another_session),
    _case("journal-forked", "receipt", "3", _forked),
    _case("journal-forked-under-one-exit", "receipt", "3", _forked_under_one_exit),
    _case("exit-by-the-leg", "jws-header", "4", _exit_by_the_leg),
    _case("exit-with-a-claim-more", "exit-claims", "4", _exit(verified=True)),
    _case("exit-of-another-nonce", "exit-claims", "4", _exit(nonce=_OTHER)),
    _case("exit-of-another-head", "exit-claims", "4", _exit(head=_OTHER)),
    _case("exit-without-a-head", "exit-claims", "4", _exit(head="")),
    _case("exit-process-still-there", "exit-claims", "4", _exit(process_gone=False)),
    _case("exit-told-twice", "receipt", "4", _second_exit),
    _case("complete-an-unknown-nonce", "session", "1", _unknown),
    Case(name="complete-before-release", play=_early, expected_reason="session", caught_by="complete 1", asset="receipt"),
    Case(
        name="complete-after-refusal",
        play=_after_refusal,
        expected_reason="session",
        caught_by="complete 1",
        asset="receipt",
    ),
)
