"""The transport: what it answers, what it survives. (Refused messages are in the tamper suite.)"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from pytest_glasshouse.attestation.audit import AuditLine
from pytest_glasshouse.attestation.http import HEAD_BYTES, HEAD_LINES, listen, serve_embedded
from pytest_glasshouse.attestation.limits import Limits
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import ConfigurationError, InfrastructureError, RefusedError
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.server_keys import read_published
from pytest_glasshouse.tamper.testbed import PLAN, SUB, TamperTestbed
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, Json
from tests.limits import HANG_S, until


@pytest.fixture(name="testbed")
def a_testbed() -> Iterator[TamperTestbed]:
    with TamperTestbed() as testbed:
        yield testbed


def asked(
    testbed: TamperTestbed, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, str, dict[str, object]]:
    connection = http.client.HTTPConnection(testbed.embedded.url.removeprefix("http://"), timeout=HANG_S)
    try:
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], json.loads(answer.read())
    finally:
        connection.close()


def raw(testbed: TamperTestbed, data: bytes) -> bytes:
    host, _, port = testbed.embedded.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=HANG_S) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_it_listens_on_loopback_only(testbed: TamperTestbed) -> None:
    assert testbed.embedded.url.startswith("http://127.0.0.1:")


def test_a_refusal_is_a_problem_document_with_its_reason_only(testbed: TamperTestbed) -> None:
    body = json.dumps({"sub": "nobody", "plan": PLAN}).encode()
    status, kind, problem = asked(testbed, "POST", "/v1/challenge", body, Content_Type="application/json")
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
def test_each_kind_of_refusal_has_its_status(testbed: TamperTestbed, path: str, kind: str, body: bytes, status: int) -> None:
    assert asked(testbed, "POST", path, body, Content_Type=kind)[0] == status


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS"])
def test_only_post_is_answered_beside_the_keys(testbed: TamperTestbed, method: str) -> None:
    status, kind, problem = asked(testbed, method, "/v1/challenge")
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
def test_a_body_that_is_no_request_is_malformed(testbed: TamperTestbed, head: bytes) -> None:
    assert b'"reason":"malformed"' in raw(testbed, head)
    testbed.attempt().release()  # and the server is as it was


def test_a_body_that_claims_to_be_too_large_is_refused_before_it_is_read(testbed: TamperTestbed) -> None:
    """None of it is sent here: a server that reads first would see a request that was cut off."""
    head = "POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
    for length, reason in ((MESSAGE_LIMIT, b"malformed"), (MESSAGE_LIMIT + 1, b"too-large"), (99_999_999_999, b"too-large")):
        assert b'"reason":"' + reason + b'"' in raw(testbed, head.format(length).encode())


def test_the_server_survives_a_client_that_goes_away(testbed: TamperTestbed) -> None:
    host, _, port = testbed.embedded.url.removeprefix("http://").partition(":")
    for _ in range(5):
        with socket.create_connection((host, int(port)), timeout=HANG_S) as connection:
            connection.sendall(b"POST /v1/release HTTP/1.1\r\nContent-Length: 1000\r\n")
    testbed.attempt().release()
    assert testbed.embedded.server.releases() == 1


def test_a_client_learns_the_reason(testbed: TamperTestbed) -> None:
    with pytest.raises(RefusedError) as caught:
        testbed.client.challenge(sub="nobody", plan=PLAN)
    assert caught.value.reason == "sub"


def test_a_server_that_is_gone_is_infrastructure(testbed: TamperTestbed) -> None:
    """Nothing was judged: the run may be tried again."""
    client = AttestationClient(testbed.embedded.url, timeout_s=2)
    testbed.embedded.close()
    with pytest.raises(InfrastructureError):
        client.challenge(sub=SUB, plan=PLAN)


def test_closing_twice_is_harmless(testbed: TamperTestbed) -> None:
    testbed.embedded.close()
    testbed.embedded.close()
    with pytest.raises(InfrastructureError):
        testbed.client.challenge(sub=SUB, plan=PLAN)


def test_keys_are_published_and_signed(testbed: TamperTestbed) -> None:
    status, kind, answer = asked(testbed, "GET", "/v1/keys")
    assert (status, kind) == (200, "application/json")
    published = read_published(answer, server=testbed.embedded.public_key)  # type: ignore[arg-type]
    assert (published.owner, published.hpke) == (testbed.owner.kid, testbed.embedded.hpke_public)


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::", "localhost", ""])  # noqa: S104
def test_without_tls_it_listens_on_loopback_addresses_only(address: str) -> None:
    """A name may mean another machine tomorrow."""
    server = AttestationServer(owner=Owner.generate().public)
    with pytest.raises(ConfigurationError):
        listen(server, (address, 0), limits=Limits())


def test_a_port_in_use_is_an_error_of_one_line(testbed: TamperTestbed) -> None:
    port = int(testbed.embedded.url.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match="cannot listen"):
        listen(AttestationServer(owner=Owner.generate().public), ("127.0.0.1", port), limits=Limits())


def test_a_completion_is_asked_for_again_until_the_server_is_back(testbed: TamperTestbed) -> None:
    """Its answer is the same each time, so asking twice costs nothing; everything else is asked for once."""
    attempt = testbed.attempt()
    attempt.release()
    attempt.run_journal()
    head = attempt.head()
    port = int(testbed.embedded.url.rpartition(":")[2])
    client = AttestationClient(testbed.embedded.url, complete_retry_s=HANG_S)
    server, http = testbed.embedded.server, testbed.embedded
    http._http.shutdown()
    http._http.server_close()
    http._http.connections.drain(0)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(client.complete, head=head, exit=attempt.exit(head), nonce=attempt.nonce)
        with pytest.raises(InfrastructureError):
            client.challenge(sub=SUB, plan=PLAN)
        again = listen(server, ("127.0.0.1", port), limits=Limits())
        assert asking.result(HANG_S).keys() == {"receipt"}
    again.close()


def test_closing_waits_for_the_answer_under_way(testbed: TamperTestbed) -> None:
    """A key that was counted should arrive."""
    attempt = testbed.attempt()
    token = attempt.token()
    testbed.embedded.server._lock.acquire()
    with ThreadPoolExecutor(2) as pool:
        asking = pool.submit(attempt.release, token)
        held = testbed.embedded._http.connections._held
        until(lambda: any(each.state == "answering" for each in list(held.values())), "a request that is answered")
        closing = pool.submit(testbed.embedded.close, grace_s=HANG_S)
        until(lambda: testbed.embedded._http.connections.stopping, "a server that closes")
        testbed.embedded.server._lock.release()
        assert asking.result(HANG_S).keys() == {"result", "sealed"}
        closing.result(HANG_S)


def test_an_unexpected_error_is_answered_with_internal_and_nothing_else(testbed: TamperTestbed) -> None:
    """Whatever goes wrong inside, the answer is a refusal without details."""

    class Broken(AttestationServer):
        def release(self, message: object) -> dict[str, Json]:
            raise RuntimeError("the key is hunter2")

    broken = serve_embedded(Broken(owner=testbed.owner.public))
    client = AttestationClient(broken.url)
    with pytest.raises(RefusedError) as caught:
        client.release(evidence="e", log=[])
    assert (caught.value.reason, "hunter2" in str(caught.value)) == ("internal", False)
    broken.close()


class Listener:
    """A listening socket on which `accept` fails once."""

    def __init__(self, real: socket.socket, failure: int) -> None:
        self._real, self._failure = real, [failure]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def accept(self) -> tuple[socket.socket, Any]:
        if self._failure:
            code = self._failure.pop()
            raise OSError(code, os.strerror(code))
        return self._real.accept()


def address_of(testbed: TamperTestbed) -> tuple[str, int]:
    host, _, port = testbed.embedded.url.removeprefix("http://").partition(":")
    return host, int(port)


def idle_connection(testbed: TamperTestbed) -> socket.socket:
    """The only connection, which was accepted and asks nothing. Being idle alone, it would be closed long after the test's end."""
    testbed.limits = Limits(request_s=10 * HANG_S)
    testbed.restart()
    held = testbed.embedded._http.connections._held
    until(lambda: not held, "every other connection to end")
    idle = socket.create_connection(address_of(testbed), timeout=HANG_S)
    until(lambda: held, "the idle connection to be accepted")
    return idle


@pytest.mark.parametrize(("failure", "closed"), [(errno.EMFILE, True), (errno.ENFILE, True), (errno.ECONNABORTED, False)])
def test_an_idle_connection_makes_room_when_descriptors_run_out(testbed: TamperTestbed, failure: int, closed: bool) -> None:
    """The client that was not accepted is, a moment later; a client that went away costs nobody a connection."""
    with idle_connection(testbed) as idle:
        http = testbed.embedded._http
        listener = http.socket
        http.socket = Listener(listener, failure)  # type: ignore[assignment]
        assert asked(testbed, "GET", "/v1/keys")[0] == 200
        http.socket = listener
        if closed:
            assert idle.recv(1) == b""
        else:
            idle.sendall(b"GET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n")
            assert idle.recv(12) == b"HTTP/1.1 200"


def test_an_idle_connection_makes_room_when_no_thread_can_be_started(
    testbed: TamperTestbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that got none is closed; the next one is served."""
    start = socketserver.ThreadingMixIn.process_request
    failures = [RuntimeError("can't start new thread")]

    def process_request(server: Any, request: Any, address: Any) -> None:
        if failures:
            raise failures.pop()
        start(server, request, address)

    with idle_connection(testbed) as idle:
        monkeypatch.setattr(socketserver.ThreadingMixIn, "process_request", process_request)
        with socket.create_connection(address_of(testbed), timeout=HANG_S) as unserved:
            assert unserved.recv(1) == b""
        assert idle.recv(1) == b""
        assert asked(testbed, "GET", "/v1/keys")[0] == 200


def test_a_head_of_too_many_lines_is_refused(testbed: TamperTestbed) -> None:
    """Each line is short, and all of them together are below the limit of bytes."""
    head = b"GET /v1/keys HTTP/1.1\r\n" + b"A: b\r\n" * (HEAD_LINES + 1)
    assert len(head) < HEAD_BYTES
    assert b'"reason":"head-too-large"' in raw(testbed, head + b"\r\n")
    assert b'"reason"' not in raw(testbed, b"GET /v1/keys HTTP/1.1\r\n" + b"A: b\r\n" * (HEAD_LINES - 1) + b"\r\n")


def test_only_the_first_refusal_of_a_flood_is_logged() -> None:
    """Otherwise a flood would fill the log; every request is refused all the same."""
    lines: list[AuditLine] = []
    server = AttestationServer(owner=Owner.generate().public)
    slow = listen(server, ("127.0.0.1", 0), limits=Limits(rate_per_s=1e-6), audit=lines.append)
    connection = http.client.HTTPConnection(slow.url.removeprefix("http://"), timeout=HANG_S)
    reasons = []
    for _ in range(3):
        connection.request("GET", "/v1/keys")
        reasons.append(json.loads(connection.getresponse().read())["reason"])
    connection.close()
    slow.close()
    assert reasons == ["rate"] * 3
    assert [(line.event, line.decision, line.reason) for line in lines] == [("request", "refused", "rate")]


@pytest.mark.parametrize(
    "sent",
    [b"", b"POST /v1/challenge HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"],
    ids=["nothing", "a part"],
)
def test_client_that_sends_no_more_is_cut_off_without_a_word(
    testbed: TamperTestbed, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    """The wait for each byte has a limit of its own, beside the one of the whole request, which never comes here."""
    testbed.limits = Limits(request_s=0.2)
    testbed.restart()
    connections = testbed.embedded._http.connections
    connections._clock = lambda: 0.0
    with socket.create_connection(address_of(testbed), timeout=HANG_S) as silent:
        silent.sendall(sent)
        assert silent.recv(1) == b""
        until(lambda: not connections._held, "the end of the connection")
    assert capfd.readouterr().err == ""
