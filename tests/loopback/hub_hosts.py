"""The two hosts of a loopback hub as servers: they read requests, write them down, play faults and send answers."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from tests.limits import HANG_S
from tests.loopback.hub_api import HubApi, Reply, route
from tests.loopback.hub_faults import (
    Changed,
    Compressed,
    Cut,
    Endless,
    HubFault,
    HubOperation,
    HungUp,
    Moved,
    Redirected,
    Refused,
)
from tests.loopback.hub_sending import changed, changed_json, compressed, instead, pieces, ranged

if TYPE_CHECKING:
    from tests.loopback.hub import Hub

#: For SO_LINGER: closing such a connection resets it.
_NO_LINGER = struct.pack("ii", 1, 0)


@dataclass(kw_only=True)
class HubRequest:
    """One request, in the order of arrival; what became of it is written down as it happens."""

    host: Literal["hub", "storage"]
    method: str
    path: str
    query: str
    #: The header, as it came: `bytes=10-`.
    range: str | None
    #: The header, as it came: `Bearer hf_...`.
    authorization: str | None
    user_agent: str
    operation: HubOperation | None
    #: None where the address names no file.
    file: str | None
    headers: Mapping[str, str]
    status: int | None = None
    #: Bytes of the body that were handed to the connection.
    sent_bytes: int = 0
    #: Whether the client closed the connection before the body's end.
    given_up: bool = False


class Host(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, api: HubApi, hub: Hub, name: Literal["hub", "storage"]) -> None:
        super().__init__(("127.0.0.1", 0), type("Handler", (_Handler,), {"api": api, "hub": hub, "name": name}))
        self._open: set[socket.socket] = set()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join(timeout=HANG_S)
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to print."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are written one after the other: the client would wait 40 ms for the second.
    disable_nagle_algorithm = True
    api: HubApi
    hub: Hub
    name: Literal["hub", "storage"]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
        del format, args

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        authorization = self.headers.get("Authorization")
        asked = route(self.path) if self.name == "hub" else None
        operation = asked.operation if asked else None
        file = asked.path if asked and asked.operation in {"resolve", "small"} else None
        stored = None
        if self.name == "storage":
            found, stored = self.api.stored(self.command, self.path, authorization)
            operation, file = "large", None if found is None else found.name
        split = urlsplit(self.path)
        request = HubRequest(
            host=self.name, method=self.command, path=split.path, query=split.query, range=self.headers.get("Range"),
            authorization=authorization, user_agent=self.headers.get("User-Agent", ""), operation=operation, file=file,
            headers=dict(self.headers.items()),
        )  # fmt: skip
        self.hub.requests.append(request)
        fault = self.hub.take(request)
        if isinstance(fault, Moved) and asked is not None:
            self.hub.move(asked.repo, fault.ref, fault.commit)
        if isinstance(fault, HungUp):
            self._hang_up()
        elif isinstance(fault, Refused | Redirected):
            self._send(request, instead(fault), None)
        else:
            self._send(request, stored or self.api.answer(self.command, self.path, asked, authorization, body), fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = _serve  # noqa: N815  (http.server's names)

    def _send(self, request: HubRequest, reply: Reply, fault: HubFault | None) -> None:
        if isinstance(fault, Changed) and reply.status == 200:
            made = changed_json(reply, fault)
            if not isinstance(made, Reply):
                self._head(request, reply, None)
                self._body(request, made)
                return
            reply = made
        reply = changed(reply, fault)
        start = stop = 0
        if reply.content is not None:
            reply, start, stop = ranged(reply, request.range, fault)
        if isinstance(fault, Compressed) and reply.content is not None:
            self._head(request, replace(reply, headers={**reply.headers, "Content-Encoding": "gzip"}), None)
            self._body(request, compressed(reply.content, fault))
            return
        self._head(request, reply, None if isinstance(fault, Endless) else stop - start)
        if request.method != "HEAD" and reply.content is not None:
            self._body(request, pieces(reply.content, start, stop, fault, self.hub.pause))
        if isinstance(fault, Cut):
            self._hang_up(reset=fault.reset)

    def _head(self, request: HubRequest, reply: Reply, length: int | None) -> None:
        request.status = reply.status
        self.send_response(reply.status)
        headers = {**reply.headers, "Date": self.date_time_string()}
        if length is None:
            # Only the end of the connection says where such a body ends.
            headers["Connection"], self.close_connection = "close", True
        else:
            headers.setdefault("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _body(self, request: HubRequest, body: Iterable[bytes]) -> None:
        try:
            for piece in body:
                if self.hub.closed:
                    break
                request.sent_bytes += len(piece)
                self.wfile.write(piece)
        except ConnectionError:
            request.given_up = self.close_connection = True

    def _hang_up(self, *, reset: bool = False) -> None:
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            os.close(self.connection.detach())
            return
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
