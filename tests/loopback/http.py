"""A real HTTP server on 127.0.0.1 in front of a cloud. It checks the key, plays faults, and hands requests to an API."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol, Self
from urllib.parse import parse_qs, urlsplit

from tests.limits import HANG_S
from tests.loopback.cloud import Cloud
from tests.loopback.faults import LOST, REFUSALS, Fault, Operation

_PROXY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body><center>502 Bad Gateway</center></body></html>"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request as an API sees it. `scope` is None for the account's key, or the one instance a pod's key is for."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    body: bytes
    scope: str | None
    user_agent: str

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer. `stream` lines are sent one by one and then held open, as a log stream is."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: tuple[str, ...] | None = None


def as_json(status: int, value: Any, **headers: str) -> Answer:
    """An answer in JSON."""
    return Answer(status=status, body=json.dumps(value).encode(), headers=headers)


class Api(Protocol):
    """One provider's API over a cloud."""

    def operation(self, request: Request) -> Operation | None:
        """What a request asks for; None for what the API does not have."""
        ...

    def answer(self, request: Request, operation: Operation | None, fault: Fault | None) -> Answer: ...

    def refusal(self, status: int, why: str, *, headers: Mapping[str, str]) -> Answer:
        """An error in the provider's own form."""
        ...


class _Http(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle of an answer is nothing to print."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class LoopbackServer:
    """Serves `apis`, selected by the beginning of the path. Used as a context manager; closes the cloud too."""

    def __init__(self, cloud: Cloud, apis: Mapping[str, Api]) -> None:
        self.cloud = cloud
        self.apis = apis
        #: Method and path of every request, in order of arrival.
        self.requests: list[tuple[str, str]] = []
        self.user_agents: set[str] = set()
        #: A test's name for the provider that this server stands for.
        self.name = ""
        handler = type("Handler", (_Handler,), {"loopback": self})
        self._http = _Http(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving and end every pod."""
        self.cloud.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=HANG_S)
        self.cloud.close()

    def scope_of(self, authorization: str | None) -> tuple[bool, str | None]:
        """Whether a key is accepted, and the one instance it is for."""
        scheme, _, key = (authorization or "").partition(" ")
        if scheme != "Bearer" or not key:
            return False, None
        if key == self.cloud.account_key:
            return True, None
        for one in tuple(self.cloud.rented.values()):
            if key == one.pod_key and one.bills:
                return True, one.instance_id
        return False, None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: LoopbackServer

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
        del format, args

    def _serve(self) -> None:
        split = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.loopback.requests.append((self.command, split.path))
        self.loopback.user_agents.add(self.headers.get("User-Agent", ""))
        api = next((api for start, api in self.loopback.apis.items() if split.path.startswith(start)), None)
        if api is None:
            self._send(Answer(status=404, body=b"404 page not found\n", content_type="text/plain"))
            return
        accepted, scope = self.loopback.scope_of(self.headers.get("Authorization"))
        if not accepted:
            self._send(api.refusal(401, "missing bearer token", headers={}))
            return
        request = Request(
            method=self.command,
            path=split.path,
            query=parse_qs(split.query, keep_blank_values=True),
            body=body,
            scope=scope,
            user_agent=self.headers.get("User-Agent", ""),
        )
        operation = api.operation(request)
        fault = None
        if operation in self.loopback.cloud.denied:
            self._send(api.refusal(403, self.loopback.cloud.denied[operation], headers={}))
            return
        if operation is not None:
            self.loopback.cloud.asked.append(operation)
            fault = self.loopback.cloud.faults.take(operation)
        if fault is not None and fault.kind in REFUSALS:
            self._refuse(api, fault)
            return
        lost = fault if fault is not None and fault.kind in LOST else None
        answer = api.answer(request, operation, None if lost else fault)
        if lost is None:
            self._send(answer)
        elif lost.kind == "lost-answer":
            self._hang_up()
        elif lost.kind == "500-after":
            self._send(api.refusal(500, "internal server error", headers={}))
        else:
            self._send(Answer(status=502, body=_PROXY_PAGE, content_type="text/html"))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815  (http.server's names)

    def _refuse(self, api: Api, fault: Fault) -> None:
        if fault.kind == "hang-up":
            self._hang_up()
        elif fault.kind == "html-502":
            self._send(Answer(status=502, body=_PROXY_PAGE, content_type="text/html"))
        elif fault.kind == "429":
            headers = {} if fault.retry_after_s is None else {"Retry-After": str(fault.retry_after_s)}
            self._send(api.refusal(429, "rate limit exceeded for the minute window", headers=headers))
        else:
            self._send(api.refusal(int(fault.kind), "upstream unavailable", headers={}))

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name.replace("_", "-"), value)
        if answer.stream is not None:
            self._stream(answer.stream)
            return
        if answer.status != 204:
            self.send_header("Content-Type", answer.content_type)
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if answer.status != 204:
            self.wfile.write(answer.body)

    def _stream(self, events: tuple[str, ...]) -> None:
        self.close_connection = True
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        for event in events:
            self.wfile.write(event.encode())
        self.wfile.flush()
        # A stream ends when the reader hangs up; ours also ends with the server.
        self.connection.settimeout(0.1)
        for _ in self._ticks():
            try:
                if not self.connection.recv(1):
                    return
            except TimeoutError:
                continue
            except OSError:
                return

    def _ticks(self) -> Iterator[None]:
        while not self.loopback.cloud.closing.is_set():
            yield
