"""A line is whole, says what was decided, and tells no name."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

import pytest

from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.stage import PLAN, SUB, Stage
from pytest_glasshouse.trust.audit import AuditLine, AuditLog, name_digest
from pytest_glasshouse.trust.server import AttestationServer


@pytest.fixture(name="lines")
def collected_lines() -> list[AuditLine]:
    return []


@pytest.fixture(name="stage")
def an_audited_stage(lines: list[AuditLine]) -> Iterator[Stage]:
    class Audited(Stage):
        full = False

        def _tell(self, line: AuditLine) -> None:
            if self.full:
                raise OSError("no space")
            lines.append(line)

        def _serve(self):  # type: ignore[no-untyped-def]  # noqa: ANN202
            embedded = super()._serve()
            embedded.server._audit = self._tell
            return embedded

    with Audited() as stage:
        yield stage


def test_a_line_is_json_with_a_time() -> None:
    read, write = os.pipe()
    AuditLog(write, clock=lambda: 1_800_000_000.25)(AuditLine(event="release", decision="refused", reason="stale"))
    told = json.loads(os.read(read, 1000))
    os.close(read)
    os.close(write)
    assert told == {"time": "2027-01-15T08:00:00.250Z", "event": "release", "decision": "refused", "reason": "stale"}


def test_a_log_that_is_gone_is_an_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(OSError, match="pipe"):
        AuditLog(write)(AuditLine(event="release", decision="released"))
    os.close(write)


def test_a_release_that_cannot_be_logged_does_not_leave(stage: Stage) -> None:
    attempt = stage.attempt()
    stage.full = True  # type: ignore[attr-defined]
    with pytest.raises(RefusedError) as caught:
        attempt.release()
    assert caught.value.reason == "internal"


def test_a_refusal_is_about_whoever_proved_to_be_there(stage: Stage, lines: list[AuditLine]) -> None:
    """An unknown key's refusal names nobody: what a stranger claims is not written down."""
    attempt = stage.attempt()
    attempt.claims["container"] = "another"
    for _ in range(2):
        with pytest.raises(RefusedError):
            attempt.release()
    with pytest.raises(RefusedError):
        stage.client.challenge(sub="a\nforged line", plan=PLAN)
    kid = attempt.claims["iss"]
    sub, nonce = name_digest("sub", SUB), name_digest("nonce", attempt.nonce)
    assert lines[-3:] == [
        AuditLine(event="release", decision="refused", reason="container", kid=str(kid), sub=sub, nonce=nonce),
        AuditLine(event="release", decision="refused", reason="nonce", kid=str(kid)),
        AuditLine(event="challenge", decision="refused", reason="sub"),
    ]


def test_an_overdue_release_is_told_once(stage: Stage, lines: list[AuditLine]) -> None:
    done, left = stage.attempt(), stage.attempt()
    done.live_through()
    left.release()
    lines.clear()
    server: AttestationServer = stage.embedded.server
    server.tell_overdue()
    assert lines == []
    stage.now += stage.policy.completion_s
    server.tell_overdue()
    server.tell_overdue()
    assert lines == [
        AuditLine(event="complete", decision="overdue", sub=name_digest("sub", SUB), nonce=name_digest("nonce", left.nonce))
    ]


def test_a_name_has_one_digest_and_no_two_kinds_share_it() -> None:
    assert name_digest("sub", "x") == name_digest("sub", "x") != name_digest("nonce", "x")
    assert name_digest("sub", "") == ""


def test_half_a_line_is_no_line() -> None:
    """A full disk or pipe takes a part of it: the decision is refused, as one that could not be written at all."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.read(reading, 4096)
    with pytest.raises(OSError, match="short write"):
        AuditLog(writing)(AuditLine(event="release", decision="released", kid="k" * 8192))
    os.close(reading)
    os.close(writing)
