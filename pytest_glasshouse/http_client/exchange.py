"""Sends one HTTP request and reads its answer within limits of bytes and time: no retry, no redirect, no connection reuse.

Each request has a new connection: the server may close a kept one just when a request is sent, and a signal handler may need one
while another request is under way. Every HTTP answer that this project reads is read here.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import TYPE_CHECKING, Any, Self, cast

from pytest_glasshouse.errors import InfrastructureError
from pytest_glasshouse.http_client.answer import MOST_BYTES, Answer

if TYPE_CHECKING:
    import urllib3

    from pytest_glasshouse.http_client.routes import Routes
    from pytest_glasshouse.wire.secret import Secret

_PIECE = 65536
_EVENTS = 4096
_PROXY_AUTHENTICATION_REQUIRED = 407


@dataclass(frozen=True, kw_only=True)
class AnswerLimits:
    """Seconds to connect, between two bytes, and for the whole exchange; bytes of the whole answer.

    With `as_far_as_it_came` a stream of events (`text/event-stream`) may end by reaching one of them.
    """

    connect_s: float = 10.0
    quiet_s: float = 30.0
    whole_s: float = 60.0
    most_bytes: int = MOST_BYTES
    as_far_as_it_came: bool = False


USUAL = AnswerLimits()


class NoAnswerError(InfrastructureError):
    """There is no usable answer. `sent` is whether the server may have got the request, `advice` what to check."""

    def __init__(self, message: str, *, sent: bool, advice: str = "Check the network") -> None:
        super().__init__(message)
        self.sent = sent
        self.advice = advice


class _LimitError(OSError):
    """An answer exceeds its limits; the text ends the sentence "its answer is"."""


def exchange(
    method: str,
    url: str,
    *,
    routes: Routes,
    limits: AnswerLimits = USUAL,
    headers: Mapping[str, str] | None = None,
    key: Secret | None = None,
    body: Secret | bytes | None = None,
) -> Answer:
    """Send once and read the answer, whatever its status. `key` is a bearer token; it and a secret `body` show in no traceback.

    Raises `NoAnswerError`, and `ConfigurationError` where the environment names unusable proxies or certificates.
    """
    with routes.pool(url) as pool, _Exchange(limits) as watch:
        watch.over(pool)
        try:
            answer = _send(pool, method, url, limits=limits, headers=headers or {}, key=key, body=body)
        except Exception as error:  # noqa: BLE001  (any error that a parser raises for hostile bytes is one here)
            problem = _problem(error, watch)
        else:
            if not watch.overdue or _is_stream(answer.content_type, limits):
                return answer
            problem = watch.late()
    # Raised here, so that no traceback has frames that hold the key.
    raise problem


def _send(
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    *,
    limits: AnswerLimits,
    headers: Mapping[str, str],
    key: Secret | None,
    body: Secret | bytes | None,
) -> Answer:
    import urllib3

    response = pool.request(
        method,
        url,
        headers={**headers, **({"Authorization": f"Bearer {key.reveal().decode()}"} if key is not None else {})},
        body=body if body is None or isinstance(body, bytes) else body.reveal(),
        retries=False,
        redirect=False,
        timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.quiet_s),
        preload_content=False,
        decode_content=False,
    )
    try:
        headers_seen = {name.lower(): value for name, value in response.headers.items()}
        if headers_seen.get("content-encoding", "identity").strip().lower() not in {"", "identity"}:
            raise _LimitError("compressed, which was not asked for")
        return Answer(status=response.status, headers=headers_seen, body=_read(response, limits))
    finally:
        response.close()


def _is_stream(content_type: str, limits: AnswerLimits) -> bool:
    return limits.as_far_as_it_came and content_type == "text/event-stream"


def _read(response: urllib3.BaseHTTPResponse, limits: AnswerLimits) -> bytes:
    stream = _is_stream(response.headers.get("content-type", "").partition(";")[0].strip().lower(), limits)
    data = bytearray()
    try:
        # Of a stream, the piece in which a limit is reached is lost.
        while piece := response.read1(_EVENTS) if stream else response.read(_PIECE):
            data += piece
    except Exception:
        if not stream:
            raise
    return bytes(data)


class _Exchange:
    """One exchange: whether its request was sent, how many bytes may still come, and the time when its connection is cut."""

    def __init__(self, limits: AnswerLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._open: list[socket.socket] = []
        self._timer = threading.Timer(limits.whole_s, self._cut)
        self._timer.daemon = True
        self.left = limits.most_bytes
        self.sent = False
        self.overdue = False

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        with self._lock:
            for each in self._open:
                each.close()
            self._open.clear()

    def over(self, pool: urllib3.PoolManager) -> None:
        """Watch every connection that `pool` makes."""
        kinds: dict[str, Any] = pool.pool_classes_by_scheme
        pool.pool_classes_by_scheme = {
            scheme: type(kind.__name__, (kind,), {"ConnectionCls": _watched(kind.ConnectionCls, self)})
            for scheme, kind in kinds.items()
        }

    def connected(self, connection: socket.socket) -> None:
        """Note a new connection. It is cut through a duplicate descriptor, since TLS detaches this one."""
        with self._lock:
            self._open.append(socket.socket(connection.family, connection.type, fileno=os.dup(connection.fileno())))
            if self.overdue:
                self._shut()

    def late(self) -> NoAnswerError:
        """The error for an answer that took too long."""
        return NoAnswerError(f"its answer took longer than {self._limits.whole_s:g} s", sent=self.sent)

    def _cut(self) -> None:
        with self._lock:
            self.overdue = True
            self._shut()

    def _shut(self) -> None:
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _CountedBody:
    """A response's file, of which no more bytes are read than the limit leaves, whatever lengths it claims."""

    def __init__(self, file: io.BufferedReader, watch: _Exchange) -> None:
        self._file = file
        self._watch = watch

    def read(self, size: int | None = -1) -> bytes:
        return self._taken(self._file.read, size)

    def read1(self, size: int = -1) -> bytes:
        return self._taken(self._file.read1, size if size > 0 else _PIECE)

    def readline(self, size: int = -1) -> bytes:
        return self._taken(self._file.readline, size if size > 0 else _PIECE)

    def _taken(self, read: Any, size: int | None) -> bytes:
        if size is None or size < 0:
            raise _LimitError("of a length below zero")
        data: bytes = read(min(size, self._watch.left + 1))
        self._watch.left -= len(data)
        if self._watch.left < 0:
            raise _LimitError("larger than it may be")
        return data

    def __getattr__(self, name: str) -> Any:
        if name in {"readinto", "readinto1", "peek", "readlines"}:
            raise AttributeError(name)
        return getattr(self._file, name)


def _watched(kind: Any, watch: _Exchange) -> Any:
    """`kind`, a class of urllib3's connections, watched by `watch`."""

    class Response(HTTPResponse):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.fp = cast("io.BufferedReader", _CountedBody(self.fp, watch))

        def begin(self) -> None:
            super().begin()
            if "transfer-encoding" in self.msg and "content-length" in self.msg:
                raise HTTPException("two lengths")
            # Headers that the parser could not read are dropped; urllib3 would log them unredacted.
            self.msg.defects.clear()
            self.msg.set_payload("")

    class BoundedConnection(kind):  # type: ignore[misc]
        response_class = Response

        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            watch.connected(made)
            return made

        def request(self, *arguments: Any, **named: Any) -> None:
            watch.sent = True
            super().request(*arguments, **named)

    return BoundedConnection


def _problem(error: Exception, watch: _Exchange) -> NoAnswerError:
    """The error to raise for `error`, whose own text may hold addresses and credentials of a proxy."""
    import ssl

    import urllib3

    never = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError, urllib3.exceptions.ProxyError)
    sent = watch.sent and not isinstance(error, never)
    chain = _chain(error)
    limit = next((part for part in chain if isinstance(part, _LimitError)), None)
    if watch.overdue:
        return NoAnswerError(watch.late().args[0], sent=sent)
    if limit is not None:
        return NoAnswerError(f"its answer is {limit}", sent=sent)
    if any(isinstance(part, ssl.SSLCertVerificationError) for part in chain):
        return NoAnswerError("its API's certificate is not valid here", sent=False, advice="Check clock and CA certificates")
    if isinstance(error, urllib3.exceptions.ProxyError):
        wants = any(str(_PROXY_AUTHENTICATION_REQUIRED) in str(part) for part in chain if isinstance(part, OSError))
        reason = "refuses its credentials" if wants else "cannot be reached, or does not connect"
        return NoAnswerError(f"the proxy {reason}", sent=False, advice="Check HTTPS_PROXY and the like")
    if not sent:
        return NoAnswerError("no connection to its API", sent=False)
    return NoAnswerError(f"the connection broke before an answer ({type(error).__name__})", sent=True)


def _chain(error: BaseException) -> list[BaseException]:
    """`error` and every error it was raised from or with."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        part = waiting.pop()
        if isinstance(part, BaseException) and not any(part is each for each in found):
            found.append(part)
            waiting += [*part.args, part.__cause__, part.__context__]
            waiting += [getattr(part, name, None) for name in ("original_error", "reason")]
    return found
