"""A server without the check an attack is made for releases the key, and the case says so: it is not refused by something else.

Cases that ask many times decide by several answers. Each of them must tell a flood that was let through from one that was not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_glasshouse.attestation import admission, completion, hardware, http, nonces, server, verifier
from pytest_glasshouse.attestation.limits import PeerRateLimiter
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.owner.sealing import read_manifest, seal
from pytest_glasshouse.tamper.case import Case, run_case
from pytest_glasshouse.tamper.observation import judge_changed_round
from pytest_glasshouse.tamper.suite import CASES
from pytest_glasshouse.tamper.testbed import PARTS, SEGMENT, TamperTestbed
from pytest_glasshouse.wire.canonical import Json

Require = Callable[..., None]


def with_require(monkeypatch: pytest.MonkeyPatch, replacement: Require) -> None:
    """Have every module of the server ask `replacement` in place of `require`."""
    for module in (verifier, server, nonces, admission, completion, hardware):
        monkeypatch.setattr(module, "require", replacement)


def named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize("name", ["challenge-flood-of-one-run", "enrolment-flood-of-one-run"])
def test_flood_that_no_check_stops_is_reported_as_released(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_case(named(name)).passed
    with_require(monkeypatch, lambda holds, reason, detail="": require(holds or reason == "busy", reason, detail))
    result = run_case(named(name))
    assert (result.seen_reason, result.released, result.control_released, result.passed) == (None, True, True, False)


def test_server_that_answers_a_repeated_request_again_is_reported_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight threads with one nonce: one of them may have the key, and here all get it."""
    answers: dict[str, dict[str, Json]] = {}
    lock, release = threading.Lock(), AttestationServer.release

    def release_again(asked: AttestationServer, message: Mapping[str, Json]) -> dict[str, Json]:
        with lock:
            evidence = str(message["evidence"])
            if evidence not in answers:
                answers[evidence] = release(asked, message)
            return answers[evidence]

    assert run_case(named("nonce-eight-at-once")).passed
    monkeypatch.setattr(AttestationServer, "release", release_again)
    result = run_case(named("nonce-eight-at-once"))
    assert (result.seen_reason, result.released, result.control_released, result.passed) == (None, True, True, False)


def test_requests_without_a_limit_of_their_rate_are_reported_as_released(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_case(named("http-too-often")).passed
    monkeypatch.setattr(http, "PeerRateLimiter", lambda _rate: PeerRateLimiter(None))
    result = run_case(named("http-too-often"))
    assert (result.seen_reason, result.released, result.passed) == (None, True, False)


def test_changed_round_that_no_invariant_notices_is_reported_as_released() -> None:
    def judged(testbed: TamperTestbed) -> None:
        judge_changed_round(testbed, lambda _about, _content: None)

    result = run_case(
        Case(name="audit-nothing", play=judged, expected_reason="same work", caught_by="same work", asset="journal")
    )
    assert (result.seen_reason, result.released, result.passed) == (None, True, False)


def test_server_that_refuses_what_is_valid_passes_no_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would refuse every attack too. And a case of two attempts names the first refusal that it does not expect."""

    def replacement(holds: bool, reason: str, detail: str = "") -> None:
        require(holds and reason != "container", "stale" if reason == "container" else reason, detail)

    with_require(monkeypatch, replacement)
    result = run_case(named("stale-timestamp"))
    assert (result.control_released, result.passed) == (False, False)
    assert run_case(named("nonce-second-try")).seen_reason == "stale"


def test_package_that_opens_to_other_parts_than_were_sealed_is_no_success() -> None:
    """The control compares what it opened: a key alone does not show that the owner's material came through."""
    with TamperTestbed() as testbed:
        parts: dict[str, Any] = {**PARTS, "train": PARTS["train"][::-1]}
        other = seal(parts, owner=testbed.owner, run="run-1", round_nonce="0" * 64, workload={"name": "mlp"}, segment=SEGMENT)
        attempt = testbed.attempt()
        key = LockedSecret.take(other.data_key.reveal())
        with pytest.raises(RefusedError, match="testbed: the opened package has other parts than were sealed"):
            attempt.open(key, other.package, read_manifest(other.manifest, owner=testbed.owner.public))
