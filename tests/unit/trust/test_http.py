"""The transport: what it answers, what it survives. (Refused messages are in the tamper suite.)"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from pytest_glasshouse.errors import InfrastructureError, RefusedError
from pytest_glasshouse.tamper.stage import PLAN, SUB, Stage
from pytest_glasshouse.trust.client import AttestationClient


@pytest.fixture(name="stage")
def a_stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


def asked(stage: Stage, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, str, dict[str, object]]:
    connection = http.client.HTTPConnection(stage.embedded.url.removeprefix("http://"), timeout=5)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], json.loads(answer.read())
    finally:
        connection.close()


def raw(stage: Stage, data: bytes) -> bytes:
    host, _, port = stage.embedded.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_listens_on_loopback_only(stage: Stage) -> None:
    assert stage.embedded.url.startswith("http://127.0.0.1:")


def test_a_refusal_is_a_problem_document_that_tells_only_its_reason(stage: Stage) -> None:
    body = json.dumps({"sub": "nobody", "plan": PLAN}).encode()
    status, kind, problem = asked(stage, "POST", "/v1/challenge", body, Content_Type="application/json")
    assert (status, kind) == (403, "application/problem+json")
    assert problem == {"type": "urn:glasshouse:refusal:sub", "title": "refused", "status": 403, "reason": "sub"}


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        ("/v1/challenge", "application/json", b"", 400),
        ("/v1/nothing", "application/json", b"{}", 404),
        ("/v1/challenge", "application/json", b" " * 70_000, 413),
        ("/v1/challenge", "text/plain", b"{}", 415),
    ],
)
def test_each_kind_of_refusal_has_its_status(stage: Stage, path: str, kind: str, body: bytes, status: int) -> None:
    assert asked(stage, "POST", path, body, Content_Type=kind)[0] == status


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_only_post_is_answered(stage: Stage, method: str) -> None:
    status, kind, problem = asked(stage, method, "/v1/challenge")
    assert (status, kind, problem["reason"]) == (404, "application/problem+json", "not-found")


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\r\n",
        b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{}",
        b"POST /v1/challenge HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01 this is not HTTP\r\n\r\n",
    ],
    ids=["no length", "negative", "cut", "two lengths", "chunked", "not http"],
)
def test_what_is_no_request_is_malformed(stage: Stage, head: bytes) -> None:
    assert b'"reason":"malformed"' in raw(stage, head)
    stage.attempt().release()  # and the server is as it was


def test_the_server_survives_a_client_that_goes_away(stage: Stage) -> None:
    host, _, port = stage.embedded.url.removeprefix("http://").partition(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(b"POST /v1/release HTTP/1.1\r\nContent-Length: 1000\r\n")
    stage.attempt().release()


def test_a_client_learns_the_reason(stage: Stage) -> None:
    with pytest.raises(RefusedError) as caught:
        stage.client.challenge(sub="nobody", plan=PLAN)
    assert caught.value.reason == "sub"


def test_a_server_that_is_gone_is_infrastructure(stage: Stage) -> None:
    """Nothing was judged: the run may be tried again."""
    client = AttestationClient(stage.embedded.url, timeout_s=2)
    stage.embedded.close()
    with pytest.raises(InfrastructureError):
        client.challenge(sub=SUB, plan=PLAN)


def test_closing_twice_is_harmless(stage: Stage) -> None:
    stage.embedded.close()
    stage.embedded.close()
