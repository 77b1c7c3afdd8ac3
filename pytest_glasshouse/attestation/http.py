"""The server over HTTP: POST, JSON with exact keys, at most 64 KiB after a head of 16; refusals are RFC 9457 problem documents.

Knows the transport and its limits. Refuses to know what the messages mean, and to serve without TLS anywhere but on
loopback.
"""

from __future__ import annotations

import contextlib
import errno
import io
import ipaddress
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.attestation.audit import Audit, AuditLine, no_audit
from pytest_glasshouse.attestation.limits import ConcurrencyLimit, Connections, Limits, PeerRateLimiter
from pytest_glasshouse.attestation.run_witness import PLAN_LIMIT
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RefusedError
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, Json, canonical, parse_object
from pytest_glasshouse.wire.hardware import RELEASE_LIMIT

#: The keys of each path's message: exactly these.
MESSAGE_KEYS: dict[str, frozenset[str]] = {
    "/v1/plan": frozenset({"plan", "rows"}),
    "/v1/mark": frozenset({"mark"}),
    "/v1/tally": frozenset({"query"}),
    "/v1/register": frozenset({"registration"}),
    "/v1/enrol": frozenset({"grant", "ak", "proof"}),
    "/v1/challenge": frozenset({"sub", "plan"}),
    "/v1/release": frozenset({"evidence", "log"}),
    "/v1/complete": frozenset({"head", "exit", "nonce"}),
    "/v1/outstanding": frozenset({"query"}),
}
#: Fields that a message may have beside them, and how large it may be then.
OPTIONAL_KEYS: dict[str, frozenset[str]] = {"/v1/release": frozenset({"devices"})}
BODY_LIMITS: dict[str, int] = {"/v1/release": RELEASE_LIMIT, "/v1/plan": PLAN_LIMIT}
KEYS_PATH = "/v1/keys"
_STATUS = {
    "malformed": 400, "not-found": 404, "too-large": 413, "content-type": 415, "busy": 429, "rate": 429, "head-too-large": 431,
}  # fmt: skip
_REFUSED = 403
#: Limits on request line and header fields together, before they are parsed. An honest client sends a tenth of it.
HEAD_BYTES, HEAD_LINES = 16 << 10, 64
_DRAIN_LIMIT = 1 << 20
_PIECE = 16 << 10
#: How many messages are read and answered at once. A parsed message takes up to forty times its bytes.
_CONCURRENT_MESSAGES = 4
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_POLL_S = 0.02
_OVERDUE_CHECK_S = 0.25
_LOOPBACK = ("127.0.0.1", 0)


@dataclass(frozen=True, kw_only=True)
class ListeningServer:
    """A server that listens. The caller must call `close`."""

    url: str
    server: AttestationServer
    _http: _Server
    _thread: threading.Thread

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The key results and receipts are checked with."""
        return self.server.public_key

    @property
    def hpke_public(self) -> str:
        """The key registrations are sealed to, as text."""
        return self.server.hpke_public

    def close(self, *, grace_s: float = 0.0) -> None:
        """Stop listening, wait up to `grace_s` for answers under way, then forget every key."""
        self._http.shutdown()
        self._http.server_close()
        self._http.connections.drain(grace_s)
        self._thread.join()
        self.server.close()


def serve_embedded(server: AttestationServer, *, limits: Limits = Limits()) -> ListeningServer:  # noqa: B008  (frozen)
    """Serve on a free port of 127.0.0.1, in a thread."""
    return listen(server, _LOOPBACK, limits=limits)


def check_address(host: str, *, tls: bool) -> None:
    """Raise `ConfigurationError` for an address that may not be listened on: without TLS, anything but loopback."""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise ConfigurationError(f"{host!r}: expected an IP address to listen on, such as 127.0.0.1 or ::1") from None
    if not tls and not loopback:
        raise ConfigurationError(
            f"{host} is not loopback: expected a certificate and its key for TLS, saw none; nothing is served"
        )


def listen(
    server: AttestationServer,
    address: tuple[str, int],
    *,
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    audit: Audit = no_audit,
) -> ListeningServer:
    """Serve on `address` (port 0: any), in a thread. Anything but loopback needs `tls`, or is a `ConfigurationError`."""
    host, port = address
    check_address(host, tls=tls is not None)
    try:
        http = _Server(address, server, limits=limits, tls=tls, audit=audit)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {host} port {port}: {error.strerror}") from None
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": _POLL_S}, name="attestation-server", daemon=True
    )
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    url = f"{'http' if tls is None else 'https'}://{shown}:{http.server_address[1]}"
    return ListeningServer(url=url, server=server, _http=http, _thread=thread)


class _Server(ThreadingHTTPServer):
    """A thread for each connection, up to the limits."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self, address: tuple[str, int], server: AttestationServer, *, limits: Limits, tls: ssl.SSLContext | None, audit: Audit
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.handlers: Mapping[str, Callable[[Mapping[str, Json]], dict[str, Json]]] = {
            "/v1/plan": server.plan,
            "/v1/mark": server.mark,
            "/v1/tally": server.tally,
            "/v1/register": server.register,
            "/v1/enrol": server.enrol,
            "/v1/challenge": server.challenge,
            "/v1/release": server.release,
            "/v1/complete": server.complete,
            "/v1/outstanding": server.list_outstanding,
        }
        self.keys = server.keys
        self.limits = limits
        self.audit = audit
        self.concurrency = ConcurrencyLimit(_CONCURRENT_MESSAGES)
        self.rate_limiter = PeerRateLimiter(limits.rate_per_s)
        self.connections = Connections(limits)
        self._tls = tls
        self._next_overdue_check = 0.0
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As the parent, without a DNS look-up of our own name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection. Where descriptors ran out, shut down an idle one; the new one is accepted a moment later."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_RESOURCES:
                self.connections.make_room()
                time.sleep(_POLL_S)
            raise

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether the limits admit this connection."""
        address = str(client_address[0]) if isinstance(client_address, tuple) else ""
        return isinstance(request, socket.socket) and self.connections.admit(request, address)

    def process_request(self, request: object, client_address: object) -> None:
        """Serve the connection in a thread, TLS handshake included, so that a slow client cannot stall the others."""
        if self._tls is not None and isinstance(request, socket.socket):
            plain, request = request, self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            self.connections.replace(plain, request)
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]
        except RuntimeError:  # no thread could be started
            self.connections.make_room()
            self.shutdown_request(request)

    def shutdown_request(self, request: object) -> None:
        """The connection has ended, or was not admitted."""
        connection = cast("socket.socket", request)
        self.connections.remove(connection)
        super().shutdown_request(connection)

    def service_actions(self) -> None:
        """Between connections: shut down the overdue ones."""
        now = time.monotonic()
        if now >= self._next_overdue_check:
            self._next_overdue_check = now + _OVERDUE_CHECK_S
            self.connections.shut_down_overdue()

    def handle_error(self, request: object, client_address: object) -> None:
        """Print no traceback for a broken connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "glasshouse"
    sys_version = ""
    disable_nagle_algorithm = True  # otherwise an answer in two writes waits for the client's delayed ACK
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._incoming = self.rfile
        self.connection.settimeout(self.server.limits.request_s)
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.do_handshake()

    def handle_one_request(self) -> None:
        """Read a whole head of bounded size before parsing it; then continue as the parent does."""
        try:
            head = self._head()
            self.rfile = io.BytesIO(head)
            self.raw_requestline = self.rfile.readline()
            parsed = bool(head) and self.parse_request()
        except RefusedError as refusal:
            self._reject(refusal)
            return
        except TimeoutError:
            return
        finally:
            self.rfile = self._incoming
        if not parsed:
            return
        method = {"POST": self.do_POST, "GET": self.do_GET}.get(self.command)
        try:
            if method is None:
                self.send_error(501)
            else:
                method()
        except TimeoutError:
            self.close_connection = True

    def _head(self) -> bytes:
        """Request line and header fields, with the empty line after them; empty when the client has closed."""
        self.request_version, self.requestline, self.close_connection = self.protocol_version, "", True
        lines: list[bytes] = []
        left = HEAD_BYTES
        while len(lines) <= HEAD_LINES:
            line = self.rfile.readline(left + 1)
            left -= len(line)
            if left < 0:
                break
            lines.append(line)
            if line in (b"\r\n", b"\n", b""):
                return b"".join(lines)
        raise RefusedError("head-too-large", f"more than {HEAD_LINES} lines or {HEAD_BYTES} bytes")

    def do_POST(self) -> None:
        try:
            self._within_rate()
            handler = self.server.handlers[self._path()]
            body = self._body()
        except RefusedError as refusal:
            self._reject(refusal)
            return
        self.server.connections.answering(self.connection)
        try:
            answer = self._answer(handler, body)
        except IntegrityError as refusal:
            self._reject(refusal)
        except RefusedError as refusal:
            self._problem(refusal.reason)
        else:
            self._send(200, "application/json", answer)

    def _answer(self, handler: Callable[[Mapping[str, Json]], dict[str, Json]], body: bytes) -> bytes:
        """The server's answer to a body. Raises `IntegrityError` for a body that is no message, `RefusedError` for a refusal."""
        with self.server.concurrency.slot(str(self.client_address[0])):
            message = parse_object(body, limit=BODY_LIMITS.get(self.path, MESSAGE_LIMIT))
            if message.keys() - OPTIONAL_KEYS.get(self.path, frozenset()) != MESSAGE_KEYS[self.path]:
                raise IntegrityError("malformed", "other keys")
            try:
                return canonical(handler(message))
            except (RefusedError, IntegrityError) as refusal:
                raise RefusedError(refusal.reason) from None
            except Exception:  # noqa: BLE001  (fails closed, without details)
                raise RefusedError("internal") from None

    def do_GET(self) -> None:
        try:
            self._within_rate()
            if self.path != KEYS_PATH:
                raise RefusedError("not-found")  # noqa: TRY301  (one way out for every refusal)
        except RefusedError as refusal:
            self._reject(refusal)
            return
        self.server.connections.answering(self.connection)
        self._send(200, "application/json", canonical(self.server.keys()))

    def _within_rate(self) -> None:
        verdict = self.server.rate_limiter.admit(str(self.client_address[0]))
        if verdict != "admitted":
            raise RefusedError("rate", verdict)

    def _path(self) -> str:
        if self.path not in self.server.handlers:
            raise RefusedError("not-found")
        return self.path

    def _body(self) -> bytes:
        if self.headers.get_all("Content-Type") != ["application/json"]:
            raise RefusedError("content-type")
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise RefusedError("malformed", "one Content-Length")
        length = int(lengths[0][:12])
        if length > BODY_LIMITS.get(self.path, MESSAGE_LIMIT):
            raise RefusedError("too-large")
        body = self.rfile.read(length)
        if len(body) != length:
            raise RefusedError("malformed", "cut off")
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Send a problem document also for what the standard library refuses (a PUT, a malformed request line)."""
        self._reject(RefusedError("not-found" if code == 501 else "malformed"))  # noqa: PLR2004

    def _reject(self, refusal: RefusedError | IntegrityError) -> None:
        """Refuse a request before it reaches the server, with an audit line for the first of a flood."""
        if refusal.detail != "refused again":
            with contextlib.suppress(OSError):  # no decision about a key was made that must be logged
                self.server.audit(AuditLine(event="request", decision="refused", reason=refusal.reason))
        self._problem(refusal.reason)
        self._drain()

    def _drain(self) -> None:
        """Read a bounded rest of the request: closing with unread data would reset the connection under the answer."""
        left = _DRAIN_LIMIT
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_WR)
            while left > 0 and (piece := self._incoming.read1(min(left, _PIECE))):
                left -= len(piece)

    def _problem(self, reason: str) -> None:
        # The body may be unread, so the connection cannot be reused.
        self.close_connection = True
        problem = {
            "type": f"urn:glasshouse:refusal:{reason}",
            "title": "refused",
            "status": _STATUS.get(reason, _REFUSED),
            "reason": reason,
        }
        self._send(_STATUS.get(reason, _REFUSED), "application/problem+json", canonical(problem))

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.server.connections.writing(self.connection)
        if self.server.connections.stopping:
            self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.server.connections.reading(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing: decisions are in the audit log or the report."""
