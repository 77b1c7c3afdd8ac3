"""Answers that are not the server's are refused: an answer has a form, and a refusal has a reason."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pytest_glasshouse.errors import InfrastructureError, ProtocolError, RefusedError
from pytest_glasshouse.owner.client import AttestationClient

Answering = Callable[..., AttestationClient]


@pytest.fixture(name="answering")
def scripted_listener() -> Iterator[Answering]:
    """A listener that sends the given answers in turn; `None` closes the connection."""
    started: list[HTTPServer] = []

    def start(*answers: tuple[int, bytes] | None, complete_retry_s: float = 0.0) -> AttestationClient:
        waiting = list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                # Closing on an unread body would reset the connection before the answer is seen.
                self.rfile.read(int(self.headers["Content-Length"]))
                answer = waiting.pop(0)
                if answer is None:
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Quiet."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        started.append(server)
        return AttestationClient(f"http://127.0.0.1:{server.server_port}", complete_retry_s=complete_retry_s)

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"a":1}x', b'{"a":1,"a":1}', b" " * (1 << 20) + b"{}"], ids=len)
def test_an_answer_that_is_no_object_is_a_protocol_error(answering: Answering, body: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a JSON object"):
        answering((200, body)).ask("/v1/challenge", {})


def test_a_refusal_without_a_reason_is_a_protocol_error(answering: Answering) -> None:
    """A proxy's error page must not read as a judgement."""
    with pytest.raises(ProtocolError, match="502 without a reason"):
        answering((502, b"{}")).ask("/v1/challenge", {})


def test_a_refusal_has_its_reason_and_too_many_requests_are_infrastructure(answering: Answering) -> None:
    client = answering((403, b'{"reason":"composite"}'), (429, b'{"reason":"rate"}'))
    with pytest.raises(RefusedError, match="composite"):
        client.ask("/v1/release", {})
    with pytest.raises(InfrastructureError, match="too many requests"):
        client.ask("/v1/release", {})


def test_a_completion_is_asked_for_again_and_nothing_else_is(answering: Answering) -> None:
    """A lost reply to a release may have been a key: it is never asked for twice with one nonce."""
    patient = answering(None, (200, b'{"receipt":"r"}'), complete_retry_s=30)
    assert patient.complete(head="h", exit="e", nonce="n") == {"receipt": "r"}
    with pytest.raises(InfrastructureError):
        answering(None, (200, b"{}"), complete_retry_s=30).release(evidence="e", log=[])
    with pytest.raises(InfrastructureError):
        answering(None, (200, b"{}")).complete(head="h", exit="e", nonce="n")
