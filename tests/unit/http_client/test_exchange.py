"""Whatever comes back over HTTP is an answer or a typed error, within its bytes and its time."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import socket
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator

import pytest

from pytest_glasshouse.channel import pod_init as pod
from pytest_glasshouse.errors import InfrastructureError, IntegrityError, ProtocolError
from pytest_glasshouse.http_client.answer import Answer
from pytest_glasshouse.http_client.exchange import AnswerLimits, NoAnswerError, exchange
from pytest_glasshouse.http_client.routes import Routes
from pytest_glasshouse.owner.client import AttestationClient
from pytest_glasshouse.wire.secret import Secret
from tests.limits import HANG_S, until

Serve = Callable[..., str]
#: Short, so that a test does not wait; a busy machine only makes an answer later still.
LIMITS = AnswerLimits(quiet_s=20.0, whole_s=1.0, most_bytes=100_000)
PATIENT = AnswerLimits(most_bytes=100_000)


@pytest.fixture(name="serve")
def scripted_server() -> Iterator[Serve]:
    """A listener whose every answer is these pieces, one after the other, `pause_s` apart, until the client closes."""
    listeners: list[socket.socket] = []
    over = threading.Event()

    def start(pieces: bytes | Iterable[bytes], *, pause_s: float = 0.0, hold: bool = False) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, contextlib.suppress(OSError):
                        connection.recv(65536)
                        for piece in [pieces] if isinstance(pieces, bytes) else pieces:
                            connection.sendall(piece)
                            if over.wait(pause_s):
                                return
                        if hold:
                            over.wait(HANG_S)
                        # Closing on an unread request would reset the connection before the answer is seen.
                        connection.shutdown(socket.SHUT_WR)
                        while connection.recv(65536):
                            pass

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/x"

    yield start
    over.set()
    for listener in listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _get(url: str, limits: AnswerLimits = PATIENT) -> Answer:
    return exchange("GET", url, routes=Routes(None), limits=limits)


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"", b"x"),
        (HEAD, b"x"),
        (HEAD + b"\r\n", b"x"),
        (HEAD + b"Content-Length: 100\r\n\r\n", b"x"),
        (CHUNKED, b"1\r\nx\r\n"),
        (CHUNKED + b"0\r\n", b"A: b\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
    ids=["status", "header", "body", "length", "chunks", "trailers", "continues"],
)
def test_a_slow_answer_ends_at_the_deadline_of_the_whole_exchange(serve: Serve, first: bytes, then: bytes) -> None:
    """Each of them comes long before a moment without a byte would be over."""
    url = serve(itertools.chain([first], itertools.repeat(then)), pause_s=0.05)
    with pytest.raises(NoAnswerError, match=r"longer than 1 s") as caught:
        _get(url, LIMITS)
    assert caught.value.sent


def test_a_silent_server_ends_at_the_deadline_too(serve: Serve) -> None:
    with pytest.raises(NoAnswerError, match="ReadTimeoutError"):
        _get(serve(b"", hold=True), AnswerLimits(quiet_s=0.2))


@pytest.mark.parametrize(
    "endless",
    [
        itertools.chain([HEAD + b"\r\n"], itertools.repeat(b"x" * 65536)),
        itertools.chain([HEAD], itertools.repeat(b"A: " + b"x" * 60_000 + b"\r\n")),
        itertools.chain([CHUNKED], itertools.repeat(b"ffff\r\n" + b"x" * 65535 + b"\r\n")),
        itertools.chain([CHUNKED + b"-1\r\n"], itertools.repeat(b"x" * 65536)),
        itertools.chain([CHUNKED + b"-5\r\n"], itertools.repeat(b"x" * 65536)),
        itertools.chain([CHUNKED + b"0\r\n"], itertools.repeat(b"A: b\r\n" * 5000)),
        itertools.chain([CHUNKED], itertools.repeat(b"1" * 65536)),
        itertools.repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 2000),
    ],
    ids=["body", "headers", "chunks", "chunk-of-minus-one", "chunk-of-minus-five", "trailers", "chunk-size", "continues"],
)
def test_an_endless_answer_ends_at_its_size_limit(serve: Serve, endless: Iterable[bytes]) -> None:
    with pytest.raises(NoAnswerError, match=r"larger than it may be|below zero|broke before an answer") as caught:
        _get(serve(endless))
    assert caught.value.sent


@pytest.mark.parametrize("encoding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip, gzip"])
def test_a_compressed_body_is_refused(serve: Serve, encoding: bytes) -> None:
    """Ten megabytes of it can be ten gigabytes of text."""
    with pytest.raises(NoAnswerError, match="compressed"):
        _get(serve(HEAD + b"Content-Encoding: " + encoding + b"\r\nContent-Length: 4\r\n\r\nabcd"))


@pytest.mark.parametrize(
    "raw_answer",
    [
        b"",
        b"\x00\xff\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
        b"HTTP/9.9 200\r\n",
        HEAD + b"Content-Length: 20\r\n\r\nshort",
        HEAD + b"Content-Length: 1, 2\r\n\r\nab",
        CHUNKED + b"zz\r\n",
        CHUNKED + b"5\r\nab",
        HEAD + b"A: b\r\n" * 200 + b"\r\n",
    ],
)
def test_bytes_that_are_no_answer_are_one_error(serve: Serve, raw_answer: bytes) -> None:
    with pytest.raises(NoAnswerError, match="broke before an answer") as caught:
        _get(serve(raw_answer))
    assert caught.value.sent


def test_a_status_of_any_kind_is_an_answer_and_no_redirect_is_followed(serve: Serve) -> None:
    for status in (101, 199, 204, 299, 301, 302, 303, 304, 307, 308, 404, 599, 999):
        answer = _get(serve(f"HTTP/1.1 {status} x\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n".encode()))
        assert (answer.status, answer.body) == (status, b"")


def test_a_stream_of_events_keeps_what_arrived(serve: Serve) -> None:
    limits = AnswerLimits(quiet_s=20.0, whole_s=2.0, most_bytes=50_000, as_far_as_it_came=True)
    stream = HEAD + b"Content-Type: text/event-stream\r\n\r\n"
    slow = _get(serve([stream + b"data: x\n\n"], hold=True), limits)
    assert slow.body.startswith(b"data: x\n\n")
    by_size = dataclasses.replace(limits, quiet_s=HANG_S, whole_s=HANG_S)
    fast = _get(serve(itertools.chain([stream], itertools.repeat(b"data: x\n\n" * 1000))), by_size)
    assert 45_000 < len(fast.body) <= 50_000
    with pytest.raises(NoAnswerError):
        _get(serve(itertools.chain([HEAD + b"\r\n"], itertools.repeat(b"x")), pause_s=0.05), limits)


def test_a_refused_connection_means_that_nothing_was_sent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NoAnswerError) as caught:
        _get(f"http://127.0.0.1:{port}/")
    assert not caught.value.sent


def test_no_traceback_of_a_failed_exchange_shows_key_or_body(serve: Serve) -> None:
    with pytest.raises(NoAnswerError) as caught:
        exchange("POST", serve(b""), routes=Routes(None), key=Secret(b"the-key-itself"), body=Secret(b"the-body-itself"))
    text = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert "itself" not in text.replace('Secret(b"the-key-itself")', "").replace('Secret(b"the-body-itself")', "")


def test_no_connection_and_no_thread_is_left_open(serve: Serve) -> None:
    url = serve(HEAD + b"Content-Length: 2\r\n\r\nhi")
    _get(url)
    before = threading.active_count()
    for _ in range(5):
        assert _get(url).body == b"hi"
    until(lambda: threading.active_count() <= before, "the end of every thread")


def test_the_attestation_servers_answers_have_the_same_limits(serve: Serve) -> None:
    drip = serve(itertools.chain([HEAD], itertools.repeat(b"x")), pause_s=0.05)
    with pytest.raises(InfrastructureError, match="longer than 3 s"):
        AttestationClient(drip, timeout_s=1.0).ask("/v1/challenge", {})
    flood = serve(itertools.chain([HEAD + b"\r\n"], itertools.repeat(b"x" * 65536)))
    with pytest.raises(InfrastructureError, match="larger"):
        AttestationClient(flood).ask("/v1/challenge", {})
    with pytest.raises(ProtocolError):
        AttestationClient(serve(HEAD + b"\r\n" + b'{"a":' * 50_000)).ask("/v1/challenge", {})


@pytest.mark.parametrize(
    "body",
    [b'{"a":' * 200_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":1,"a":2}', b"NaN", b"1e999", b"9" * 5000, b'"\\ud800"', b"\xff"],
)
def test_ambiguous_json_is_refused(body: bytes) -> None:
    with pytest.raises(IntegrityError):
        Answer(status=200, headers={}, body=body).value()


def test_one_unreadable_part_does_not_hide_the_others() -> None:
    deep = b'{"id": 3, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    parts = [
        b'{"id": 1, "cost": NaN}',
        b'{"id": 2, "id": 3}',
        deep,
        b'{"id": 4, "n": "\\ud800"}',
        b'{"id": 5, "n": "\xff"}',
        b"1e999",
    ]
    body = b'\xef\xbb\xbf{"pods": [' + b",".join(parts) + b"]}"
    found = Answer(status=200, headers={}, body=body).value(tolerant=True)
    assert isinstance(found, dict)
    rows = found["pods"]
    assert isinstance(rows, list)
    assert [row["id"] if isinstance(row, dict) else repr(row) for row in rows] == [1, "<unreadable>", 3, 4, 5, "<unreadable>"]
    assert repr(rows[0]) == "{'id': 1, 'cost': <unreadable>}"
    assert [row["n"] for row in rows[3:5] if isinstance(row, dict)] == ["\ufffd", "\ufffd"]


def test_json_with_too_many_values_is_not_parsed() -> None:
    body = b"[" + b"[]," * 500_001 + b"[]]"
    for tolerant in (True, False):
        with pytest.raises(IntegrityError, match="values"):
            Answer(status=200, headers={}, body=body).value(tolerant=tolerant)


def test_a_pods_own_key_follows_no_redirect(serve: Serve) -> None:
    """The watchdog ends its pod at the provider; a server it redirects to does not get the key."""
    other: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        port = elsewhere.getsockname()[1]
        for status in (301, 302, 303, 307, 308):
            url = serve(f"HTTP/1.1 {status} x\r\nLocation: http://127.0.0.1:{port}/\r\nContent-Length: 0\r\n\r\n".encode())
            assert pod.call("POST", url, "the-pods-key", {"action": "stop"}) == f"POST: {status}"
        elsewhere.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            other.append(str(elsewhere.accept()))
    assert other == []
