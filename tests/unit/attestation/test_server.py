"""The server beyond what tamper cases show: what it answers, what it remembers, and that surprises release nothing."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_glasshouse.attestation import admission
from pytest_glasshouse.attestation import server as server_module
from pytest_glasshouse.attestation.ledger import ReleaseLedger
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.testbed import PLAN, SUB, Attempt, TamperTestbed
from pytest_glasshouse.wire import evidence as ev
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.elapsed import since_boot_ns


@pytest.fixture(name="testbed")
def a_testbed() -> Iterator[TamperTestbed]:
    with TamperTestbed() as testbed:
        yield testbed


def refusal_of(act: object) -> str:
    assert callable(act)
    with pytest.raises(RefusedError) as caught:
        act()
    return caught.value.reason


def test_a_challenge_holds_its_time_of_issue_and_its_lifetime(testbed: TamperTestbed) -> None:
    challenge = testbed.client.challenge(sub=SUB, plan=PLAN)
    assert challenge.keys() == {"nonce", "issued_at", "expires_in", "policy"}
    assert (challenge["issued_at"], challenge["expires_in"]) == (testbed.now, 60)
    assert challenge["policy"] == testbed.policy.sha256


def test_the_result_repeats_the_attested_claims(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    token = attempt.token()
    result = tokens.verify(attempt.release(token)["result"], key=testbed.embedded.public_key, typ=ev.TYP_RESULT)
    tokens.expect(result, ev.RESULT_SHAPE)
    for name in ("cnf", "policy", "plan", "manifest", "composite", "container", "sub"):
        assert result[name] == attempt.claims[name]
    assert result["iss"] == tokens.thumbprint(testbed.embedded.public_key)
    assert result["evidence_sha256"] == sha256_hex(token.encode())
    assert [submod["ear_status"] for submod in result["submods"].values()] == ["affirming"]  # type: ignore[union-attr,index,call-overload]


def test_the_same_head_gets_the_same_receipt_again(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.release()
    attempt.run_journal()
    head = attempt.head()
    first = attempt.complete(head=head)
    testbed.now += 500
    assert attempt.complete(head=head) == first


def test_the_receipt_is_over_head_and_exit(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    result = attempt.release()["result"]
    attempt.run_journal()
    head = attempt.head()
    leaving = attempt.exit(head)
    receipt = tokens.verify(attempt.complete(head=head, exit=leaving), key=testbed.embedded.public_key, typ=ev.TYP_RECEIPT)
    tokens.expect(receipt, ev.RECEIPT_SHAPE)
    assert receipt["head_sha256"] == sha256_hex(head.encode())
    assert receipt["exit_sha256"] == sha256_hex(leaving.encode())
    assert receipt["result_sha256"] == sha256_hex(result.encode())
    assert (receipt["nonce"], receipt["attempt"]) == (attempt.nonce, 1)


def test_a_failed_leg_can_be_completed_without_an_adapter(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.release()
    claims = ev.head_claims(nonce=attempt.nonce, head=attempt.journal.head, count=2, adapter="", status="failed")
    attempt.complete(head=tokens.sign(claims, key=attempt.sig, typ=ev.TYP_HEAD))
    assert testbed.embedded.server.outstanding() == []


def test_a_release_is_outstanding_until_it_is_completed_and_after_a_restart(testbed: TamperTestbed) -> None:
    done, left = testbed.attempt(), testbed.attempt()
    done.run_lifecycle()
    left.release()
    expected: list[dict[str, Json]] = [
        {
            "nonce": left.nonce, "sub": SUB, "run": "run-1", "manifest": testbed.sealed.manifest_sha256,
            "released_at": testbed.now, "deadline": testbed.now + testbed.policy.completion_s,
        }
    ]  # fmt: skip
    assert testbed.embedded.server.outstanding() == expected
    testbed.restart()
    assert testbed.embedded.server.outstanding() == expected


def test_attempts_are_counted_by_run_for_a_subject_and_row(testbed: TamperTestbed) -> None:
    """Rounds of one run are one attempt; another run of the same row is the next, also after a restart."""

    def attempt_of(run: str, sub: str, row: str) -> Json:
        owner, server = testbed.owner, testbed.embedded.public_key
        grant = owner.grant(
            server=server, run=run, sub=sub, package=testbed.sealed.manifest_sha256, policy_sha256=testbed.policy.sha256,
            allocation="a", expires=testbed.now + 60, release_limit=1, subject="wheel", row=row,
        )  # fmt: skip
        testbed.enrol(sub, grant=grant)
        result = testbed.attempt(sub).release()["result"]
        return tokens.peek(result)["attempt"]

    assert attempt_of("run-a", "a/1", "row") == 1
    assert attempt_of("run-a", "a/2", "row") == 1
    assert attempt_of("run-b", "b/1", "row") == 2
    assert attempt_of("run-b", "b/2", "other row") == 1
    testbed.restart()
    assert attempt_of("run-c", "c/1", "row") == 3
    assert attempt_of("run-a", "a/3", "row") == 1


def test_each_plan_is_an_attempt_of_its_own_within_one_run(testbed: TamperTestbed) -> None:
    """No two attempts have one plan: a row that a run tries again is counted, and a round of one attempt is not."""
    counted = []
    for number, plan in enumerate(("a" * 64, "a" * 64, "b" * 64, "a" * 64)):
        testbed.enrol(f"p/{number}", grant=testbed.grant(f"p/{number}"))
        testbed.begin_round(plan=plan)
        nonce = str(testbed.client.challenge(sub=f"p/{number}", plan=plan)["nonce"])
        counted.append(testbed.embedded.server._nonces._issued[nonce].attempt)
    first = counted[0]
    assert counted == [first, first, first + 1, first]


def test_enrolling_twice_is_as_good_as_once(testbed: TamperTestbed) -> None:
    """A reply may be lost; the same grant and key may ask again."""
    grant = testbed.grant("again")
    testbed.enrol("again", grant=grant)
    testbed.enrol("again", grant=grant)
    testbed.attempt("again").release()
    assert testbed.embedded.server.releases() == 1


def test_registering_twice_is_as_good_as_once(testbed: TamperTestbed) -> None:
    testbed.register(testbed.sealed, testbed.policy)
    testbed.attempt().release()
    assert testbed.embedded.server.releases() == 1


def test_four_challenges_may_be_open_and_an_expired_one_makes_room(testbed: TamperTestbed) -> None:
    for _ in range(4):
        testbed.attempt()
    assert refusal_of(testbed.attempt) == "busy"
    testbed.now += 60
    testbed.attempt().release()


@pytest.mark.parametrize("at", [-60, 5])
def test_the_window_includes_its_edges(testbed: TamperTestbed, at: int) -> None:
    attempt = testbed.attempt()
    attempt.claims.update(iat=testbed.now + at, exp=testbed.now + at + 61)
    attempt.release()
    assert testbed.embedded.server.releases() == 1


def test_an_unexpected_error_releases_nothing(testbed: TamperTestbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever breaks inside, the answer is `internal`, the nonce is spent and no key was counted out."""

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError(testbed.sealed.data_key.reveal())

    attempt = testbed.attempt()
    with monkeypatch.context() as patch:
        patch.setattr(server_module, "appraise", broken)
        assert refusal_of(attempt.release) == "internal"
    assert testbed.embedded.server.releases() == 0
    assert refusal_of(attempt.release) == "nonce"


def test_an_error_carries_no_text_of_its_cause(testbed: TamperTestbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback is printed sooner or later: it must refer to no frame that held a key."""

    def broken(*_: object, **__: object) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(server_module, "appraise", broken)
    attempt = testbed.attempt()
    with pytest.raises(RefusedError) as caught:
        testbed.embedded.server.release({"evidence": attempt.token(), "log": list(attempt.log)})
    assert (caught.value.__context__, caught.value.__cause__, "secret" in str(caught.value)) == (None, None, False)


def test_a_release_that_cannot_be_recorded_is_refused(testbed: TamperTestbed, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_event: object) -> None:
        raise OSError("no space")

    attempt = testbed.attempt()
    with monkeypatch.context() as patch:
        patch.setattr(testbed.ledger, "record_release", full)
        assert refusal_of(attempt.release) == "internal"
    assert testbed.embedded.server.releases() == 0


def test_the_release_is_on_disk_before_the_key_leaves(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    testbed = TamperTestbed()
    with testbed:
        testbed.ledger = ReleaseLedger(path)
        testbed.restart()
        attempt = testbed.attempt()
        attempt.release()
        copied = tmp_path / "as after a power cut"
        for suffix in ("", "-wal"):
            shutil.copy(f"{path}{suffix}", f"{copied}{suffix}")
        with contextlib.closing(ReleaseLedger(copied)) as found:
            assert found.release(attempt.nonce) is not None


def test_no_secret_is_shown(testbed: TamperTestbed) -> None:
    """Neither objects nor the ledger show a key."""
    testbed.attempt().run_lifecycle()
    key = testbed.sealed.data_key.reveal()
    shown = repr([testbed.embedded, testbed.embedded.server, testbed.owner, testbed.sealed, vars(testbed.embedded.server)])
    written = "".join(testbed.ledger._db.iterdump())
    for spelling in (repr(key)[2:-1], key.hex()):
        assert spelling not in shown
        assert spelling not in written


def test_a_closed_server_holds_no_key(testbed: TamperTestbed) -> None:
    server = testbed.embedded.server
    attempt = testbed.attempt()
    server.close()
    assert refusal_of(attempt.release) == "jws-header"


def test_unused_data_keys_are_forgotten(testbed: TamperTestbed) -> None:
    """A server that runs for months holds what it needs today; a leg under way is completed all the same."""
    held = testbed.embedded.server._admission
    attempt = testbed.attempt()
    attempt.release()
    testbed.now += 86_400 + admission.KEEP_S
    second = testbed.seal()
    testbed.register(second, testbed.policy)
    assert (list(held.packages), list(held.sessions)) == ([second.manifest_sha256], [])
    attempt.run_journal()
    attempt.complete()


def test_a_package_in_use_is_kept(testbed: TamperTestbed) -> None:
    testbed.enrol("long", grant=testbed.grant("long", expires_in=10 * admission.KEEP_S))
    testbed.now += 3 * admission.KEEP_S
    testbed.register(testbed.seal(), testbed.policy)
    testbed.attempt("long").release()
    assert testbed.embedded.server.releases() == 1


def _held_ms(testbed: TamperTestbed, attempt: Attempt) -> int:
    attempt.run_journal()
    receipt = tokens.verify(attempt.complete(), key=testbed.embedded.public_key, typ=ev.TYP_RECEIPT)
    return int(str(receipt["held_ms"]))


def test_the_receipt_holds_an_upper_bound_of_the_time_the_key_was_held(testbed: TamperTestbed) -> None:
    """By a monotonic clock: the wall clock may be set back meanwhile."""
    attempt = testbed.attempt()
    before = since_boot_ns()
    attempt.release()
    testbed.now -= 5_000
    held = _held_ms(testbed, attempt)
    assert 1 <= held <= (since_boot_ns() - before) // 1_000_000 + 1


def test_a_restarted_server_rounds_the_held_time_up_to_seconds(testbed: TamperTestbed) -> None:
    attempt = testbed.attempt()
    attempt.release()
    testbed.restart()
    testbed.now += 7
    assert _held_ms(testbed, attempt) == 8_000
