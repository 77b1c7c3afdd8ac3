"""Malformed HTTP messages: size, encoding, keys, path. They are refused before their content is looked at."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable

from pytest_glasshouse.attestation.http import KEYS_PATH
from pytest_glasshouse.attestation.limits import Limits
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import Attempt, TamperTestbed
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, canonical
from pytest_glasshouse.wire.hardware import RELEASE_LIMIT

Body = Callable[[Attempt], bytes]
_TOO_MANY = 200


def _case(name: str, reason: str, body: Body, *, path: str = "/v1/release", kind: str = "application/json") -> Case:
    def play(testbed: TamperTestbed) -> None:
        testbed.client.send(path, body(testbed.attempt()), content_type=kind)

    return Case(name=f"http-{name}", play=play, expected_reason=reason, caught_by="transport", nonce="open")


def _message(attempt: Attempt, **more: object) -> dict[str, object]:
    return {"evidence": attempt.token(), "log": list(attempt.log), **more}


def _valid(attempt: Attempt) -> bytes:
    return canonical(_message(attempt))


def _with(**more: object) -> Body:
    return lambda attempt: canonical(_message(attempt, **more))


def _duplicate(attempt: Attempt) -> bytes:
    return b'{"log":[],' + _valid(attempt)[1:]


def _without_log(attempt: Attempt) -> bytes:
    return canonical({"evidence": attempt.token()})


def _dots(testbed: TamperTestbed) -> None:
    """Sent without the client library, which would normalise the path."""
    _send_raw(testbed, "POST", "/v1/challenge/../release", _valid(testbed.attempt()))


def _send_raw(testbed: TamperTestbed, method: str, path: str, body: bytes | None = None) -> None:
    connection = http.client.HTTPConnection(testbed.embedded.url.removeprefix("http://"))
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    if "reason" in answer:
        raise RefusedError(answer["reason"])


def _too_often(testbed: TamperTestbed) -> None:
    """More valid requests than the rate limit admits, without the client, which reports that as a connection error.

    So many that also a machine which takes most of a second for each is refused one.
    """
    testbed.limits = Limits(rate_per_s=1.0)
    testbed.restart()
    for _ in range(_TOO_MANY):
        _send_raw(testbed, "GET", KEYS_PATH)


CASES = (
    _case("too-large", "too-large", lambda a: _valid(a).ljust(RELEASE_LIMIT + 1)),
    _case("far-too-large", "too-large", lambda _: b" " * (4 * RELEASE_LIMIT)),
    # Evidence of devices is sent with a request for a key, and with nothing else.
    _case("too-large-for-a-challenge", "too-large", lambda _: b"{}".ljust(MESSAGE_LIMIT + 1), path="/v1/challenge"),
    _case("empty", "malformed", lambda _: b""),
    _case("not-json", "malformed", lambda _: b"evidence"),
    _case("trailing-bytes", "malformed", lambda a: _valid(a) + b"{}"),
    _case("key-twice", "malformed", _duplicate),
    _case("key-nobody-asked-for", "malformed", _with(force=True)),
    _case("key-missing", "malformed", _without_log),
    _case("a-list", "malformed", lambda a: b"[" + _valid(a) + b"]"),
    _case("a-float", "malformed", lambda a: json.dumps(_message(a, log=[1.5])).encode()),
    _case("not-a-number", "malformed", lambda a: json.dumps(_message(a, log=[float("nan")])).encode()),
    _case("a-giant", "malformed", lambda a: json.dumps(_message(a, log=[2**53])).encode()),
    _case("deeply-nested", "malformed", lambda _: b"[" * 5000 + b"]" * 5000),
    _case("lone-surrogate", "malformed", lambda a: json.dumps(_message(a, log=["\ud800"])).encode()),
    _case("utf-16", "malformed", lambda a: _valid(a).decode().encode("utf-16")),
    _case("evidence-a-number", "malformed", _with(evidence=7)),
    _case("log-a-word", "malformed", _with(log="measured")),
    _case("log-of-numbers", "malformed", _with(log=[1, 2])),
    _case("log-of-seventeen-lines", "malformed", _with(log=["{}"] * 17)),
    _case("content-type-text", "content-type", _valid, kind="text/plain"),
    _case("content-type-form", "content-type", _valid, kind="application/x-www-form-urlencoded"),
    _case("content-type-with-charset", "content-type", _valid, kind="application/json; charset=utf-16"),
    _case("path-unknown", "not-found", _valid, path="/v1/key"),
    Case(name="http-too-often", play=_too_often, expected_reason="rate", caught_by="transport"),
    Case(name="http-path-with-dots", play=_dots, expected_reason="not-found", caught_by="transport", nonce="open"),
    _case("path-with-query", "not-found", _valid, path="/v1/release?force=1"),
    _case("path-of-another-message", "malformed", _valid, path="/v1/complete"),
)
