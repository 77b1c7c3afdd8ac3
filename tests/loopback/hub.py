"""A model hub on 127.0.0.1: two hosts, as the real one has, one for the API and small files and one where large files lie.

It speaks what `huggingface_hub` asks for. What it refuses, sends and redirects is what https://huggingface.co does, as far as
we have seen it; `tests/loopback/test_hub.py` asks it by the real client.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from tests.limits import HANG_S
from tests.loopback.hub_api import HubApi, Reply, route
from tests.loopback.hub_faults import (
    Armed,
    Changed,
    Cut,
    Endless,
    HubFault,
    HubOperation,
    HubScript,
    HungUp,
    Moved,
    Redirected,
    Refused,
)
from tests.loopback.hub_repository import LARGE_BYTES, Files, Repository
from tests.loopback.hub_sending import changed, changed_json, instead, pieces, ranged

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


class Hub:
    """Serves `models`: by repository and commit, a directory or contents by name. A context manager.

    `refs`: branches and tags by repository; `main` is the last commit given unless it is named there. `gated` repositories are
    listed for everybody and read by a token that is let in, `private` ones are seen by no other. `tokens`: the repositories that
    each is let into; any other token is refused. Large files are `*.safetensors` and those of `large_bytes` and more.
    """

    def __init__(
        self,
        models: Mapping[str, Mapping[str, Files]],
        *,
        refs: Mapping[str, Mapping[str, str]] | None = None,
        gated: Collection[str] = (),
        private: Collection[str] = (),
        tokens: Mapping[str, Collection[str]] | None = None,
        large_bytes: int = LARGE_BYTES,
        listings_gated: bool = False,
        small_redirected: bool = True,
        xet: bool = False,
        page_entries: int = 1000,
    ) -> None:
        self._repositories = {
            repo: Repository(repo, commits, (refs or {}).get(repo, {}), large_bytes=large_bytes)
            for repo, commits in models.items()
        }
        self._faults = HubScript()
        #: Every request to either host.
        self.requests: list[HubRequest] = []
        self._api = HubApi(
            self._repositories, gated=gated, private=private, tokens=tokens or {}, secret=secrets.token_bytes(16),
            listings_gated=listings_gated, small_redirected=small_redirected, xet=xet, page_entries=page_entries,
        )  # fmt: skip
        self._closing = threading.Event()
        self._hosts = [_Host(self._api, self, "hub"), _Host(self._api, self, "storage")]
        self._api.hub_url, self._api.storage_url = (host.url for host in self._hosts)

    @property
    def url(self) -> str:
        """The hub's address, for `HF_ENDPOINT`."""
        return self._api.hub_url

    @property
    def storage_url(self) -> str:
        """The address where large files lie: another port, and so another origin."""
        return self._api.storage_url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; answers that are still held back go."""
        self._closing.set()
        self._faults.release()
        for host in self._hosts:
            host.close()

    def arm(
        self,
        fault: HubFault,
        *,
        on: HubOperation,
        file: str | None = None,
        method: str | None = None,
        skip: int = 0,
        times: int | None = 1,
    ) -> None:
        """Play a fault on the next `times` such requests (None: on all), after letting `skip` of them pass."""
        self._faults.add([Armed(fault=fault, on=on, file=file, method=method, skip=skip, times=times)])

    def unmet(self) -> tuple[HubFault, ...]:
        """Faults that too few requests have met."""
        return self._faults.left()

    def move(self, repo: str, ref: str, commit: str) -> None:
        """Let a branch or tag mean another commit."""
        assert commit in self._repositories[repo].commits
        self._repositories[repo].refs[ref] = commit

    def sha256(self, repo: str, commit: str, file: str) -> str:
        """The SHA-256 of a file's bytes, large or not."""
        return self._repositories[repo].commits[commit][file].content.sha256

    def asked(self, operation: HubOperation, *, method: str | None = None, file: str | None = None) -> list[HubRequest]:
        """The requests for something, in order."""
        return [
            one
            for one in tuple(self.requests)
            if one.operation == operation and method in {None, one.method} and file in {None, one.file}
        ]

    def bodies_asked(self) -> set[str]:
        """The large files whose bytes somebody asked for."""
        return {one.file for one in self.asked("large", method="GET") if one.file is not None}

    def tokens_seen(self, host: Literal["hub", "storage"]) -> set[str | None]:
        """What came in the `Authorization` headers to one host; None stands for requests without one."""
        return {one.authorization for one in tuple(self.requests) if one.host == host}

    # What the hosts need.

    def take(self, request: HubRequest) -> HubFault | None:
        """The fault to be played on a request."""
        return None if request.operation is None else self._faults.take(request.operation, request.method, request.file)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the hub's end."""
        self._closing.wait(seconds)

    @property
    def closed(self) -> bool:
        return self._closing.is_set()


class _Host(ThreadingHTTPServer):
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
        endless = isinstance(fault, Endless)
        self._head(request, reply, None if endless else stop - start)
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
