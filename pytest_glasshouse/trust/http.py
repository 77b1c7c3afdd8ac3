"""The server over HTTP on loopback: POST, JSON of exact keys, at most 64 KiB; refusals are RFC 9457 problem documents.

Knows the transport and its limits. Refuses to know what the messages mean, and to listen anywhere but 127.0.0.1.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.trust.server import AttestationServer
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, Json, canonical, parse_object

SOCKET_TIMEOUT_S = 10
#: Path, and exactly the keys its message has.
MESSAGES: dict[str, frozenset[str]] = {
    "/v1/register": frozenset({"registration"}),
    "/v1/enrol": frozenset({"grant", "ak", "proof"}),
    "/v1/challenge": frozenset({"sub", "plan"}),
    "/v1/release": frozenset({"evidence", "log"}),
    "/v1/complete": frozenset({"head", "exit", "nonce"}),
}
_STATUS = {"malformed": 400, "not-found": 404, "too-large": 413, "content-type": 415, "busy": 429}
_REFUSED = 403
_DRAIN_LIMIT = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A server listening on loopback. The caller owes `close`."""

    url: str
    server: AttestationServer
    _http: ThreadingHTTPServer
    _thread: threading.Thread

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The key results and receipts are checked with."""
        return self.server.public_key

    @property
    def hpke_public(self) -> str:
        """The key registrations are sealed to, as text."""
        return self.server.hpke_public

    def close(self) -> None:
        """Stop listening, then forget every key."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.server.close()


def serve_embedded(server: AttestationServer) -> Embedded:
    """Serve on a free port of 127.0.0.1, in a thread."""
    routes: dict[str, Callable[[Mapping[str, Json]], dict[str, Json]]] = {
        "/v1/register": server.register,
        "/v1/enrol": server.enrol,
        "/v1/challenge": server.challenge,
        "/v1/release": server.release,
        "/v1/complete": server.complete,
    }
    http = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"routes": routes}))
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}, name="attestation-server", daemon=True)
    thread.start()
    return Embedded(url=f"http://127.0.0.1:{http.server_address[1]}", server=server, _http=http, _thread=thread)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken connection is nobody's business: no traceback on the test run's terminal."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "glasshouse"
    sys_version = ""
    timeout = SOCKET_TIMEOUT_S
    disable_nagle_algorithm = True  # an answer in two writes would otherwise wait for the client's delayed ACK
    routes: Mapping[str, Callable[[Mapping[str, Json]], dict[str, Json]]]

    def do_POST(self) -> None:
        try:
            answer = self.routes[self._path()](self._message())
        except (RefusedError, IntegrityError) as refusal:
            self._problem(refusal.reason)
        except Exception:  # noqa: BLE001  (fails closed, and says nothing)
            self._problem("internal")
        else:
            self._send(200, "application/json", canonical(answer))

    def _path(self) -> str:
        if self.path not in self.routes:
            raise RefusedError("not-found")
        return self.path

    def _message(self) -> dict[str, Json]:
        if self.headers.get_all("Content-Type") != ["application/json"]:
            raise RefusedError("content-type")
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise RefusedError("malformed", "one Content-Length")
        length = int(lengths[0][:12])
        if length > MESSAGE_LIMIT:
            # Read a little of it: closing on an unread body resets the connection before the answer is seen.
            self.rfile.read(min(length, _DRAIN_LIMIT))
            raise RefusedError("too-large")
        body = self.rfile.read(length)
        message = parse_object(body)
        if len(body) != length or message.keys() != MESSAGES[self.path]:
            raise RefusedError("malformed", "other keys")
        return message

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the standard library refuses on its own (a GET, a line that is no request) is a problem document too."""
        self._problem("not-found" if code == 501 else "malformed")  # noqa: PLR2004

    def _problem(self, reason: str) -> None:
        # The body may be unread: the connection cannot be used again.
        self.close_connection = True
        problem = {
            "type": f"urn:glasshouse:refusal:{reason}",
            "title": "refused",
            "status": _STATUS.get(reason, _REFUSED),
            "reason": reason,
        }
        self._send(_STATUS.get(reason, _REFUSED), "application/problem+json", canonical(problem))

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet: the report says what was asked and answered."""
