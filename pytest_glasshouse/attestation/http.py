"""The server over HTTP: POST, JSON of exact keys, at most 64 KiB under a head of 16; refusals are RFC 9457 problem documents.

Knows the transport and its limits. Refuses to know what the messages mean, and to listen in the clear anywhere but on
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

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.attestation.audit import Audit, AuditLine, no_audit
from pytest_glasshouse.attestation.limits import ConcurrencyLimit, Connections, Limits, Peers
from pytest_glasshouse.attestation.server import AttestationServer
from pytest_glasshouse.errors import ConfigurationError, IntegrityError, RefusedError
from pytest_glasshouse.wire.canonical import MESSAGE_LIMIT, Json, canonical, parse_object

#: Path, and exactly the keys its message has.
MESSAGES: dict[str, frozenset[str]] = {
    "/v1/register": frozenset({"registration"}),
    "/v1/enrol": frozenset({"grant", "ak", "proof"}),
    "/v1/challenge": frozenset({"sub", "plan"}),
    "/v1/release": frozenset({"evidence", "log"}),
    "/v1/complete": frozenset({"head", "exit", "nonce"}),
    "/v1/outstanding": frozenset({"query"}),
}
KEYS_PATH = "/v1/keys"
_STATUS = {
    "malformed": 400, "not-found": 404, "too-large": 413, "content-type": 415, "busy": 429, "rate": 429, "head-too-large": 431,
}  # fmt: skip
_REFUSED = 403
#: Of a request line and all header fields together, before anything is made of them. An honest client sends a tenth of it.
HEAD_BYTES, HEAD_LINES = 16 << 10, 64
_DRAIN_LIMIT = 1 << 20
_PIECE = 16 << 10
#: Messages being read and answered at once. Parsed, one takes up to forty times its bytes.
_AT_WORK = 4
_OUT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_POLL_S = 0.02
_CUT_EVERY_S = 0.25
_STILL = "still no"
_LOOPBACK = ("127.0.0.1", 0)


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A server that listens. The caller owes `close`."""

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
        """Stop listening, let what was asked be answered for so long, then forget every key."""
        self._http.shutdown()
        self._http.server_close()
        self._http.connections.drain(grace_s)
        self._thread.join()
        self.server.close()


def serve_embedded(server: AttestationServer, *, limits: Limits = Limits()) -> Embedded:  # noqa: B008  (frozen)
    """Serve on a free port of 127.0.0.1, in a thread."""
    return listen(server, _LOOPBACK, limits=limits)


def check_address(host: str, *, tls: bool) -> None:
    """Raise `ConfigurationError` for an address that may not be listened on: in the clear, anything but loopback."""
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
) -> Embedded:
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
    return Embedded(url=url, server=server, _http=http, _thread=thread)


class _Server(ThreadingHTTPServer):
    """A thread for each connection, as many as the limits let in."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(
        self, address: tuple[str, int], server: AttestationServer, *, limits: Limits, tls: ssl.SSLContext | None, audit: Audit
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.answers: Mapping[str, Callable[[Mapping[str, Json]], dict[str, Json]]] = {
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
        self.turns = ConcurrencyLimit(_AT_WORK)
        self.peers = Peers(limits.rate_per_s)
        self.connections = Connections(limits)
        self._tls = tls
        self._cut_at = 0.0
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As the parent, without asking a name server who we are."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, object]:
        """A connection. One that there is no file descriptor for takes the place of an idle one, a moment later."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _OUT_OF_FILES:
                self.connections.make_room()
                time.sleep(_POLL_S)
            raise

    def verify_request(self, request: object, client_address: object) -> bool:
        """Whether there is room for one more connection of that address."""
        address = str(client_address[0]) if isinstance(client_address, tuple) else ""
        return isinstance(request, socket.socket) and self.connections.admit(request, address)

    def process_request(self, request: object, client_address: object) -> None:
        """A thread for the connection. The TLS handshake is its business too, so that nobody can stall the others with it."""
        if self._tls is not None and isinstance(request, socket.socket):
            plain, request = request, self._tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            self.connections.became(plain, request)
        try:
            super().process_request(request, client_address)  # type: ignore[arg-type]
        except RuntimeError:  # no thread can be had
            self.connections.make_room()
            self.shutdown_request(request)

    def shutdown_request(self, request: object) -> None:
        """The connection has ended, or was never let in."""
        if isinstance(request, socket.socket):
            self.connections.gone(request)
            super().shutdown_request(request)

    def service_actions(self) -> None:
        """Between connections: end those that take too long."""
        now = time.monotonic()
        if now >= self._cut_at:
            self._cut_at = now + _CUT_EVERY_S
            self.connections.cut_overdue()

    def handle_error(self, request: object, client_address: object) -> None:
        """A broken connection is nobody's business: no traceback on anybody's terminal."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "glasshouse"
    sys_version = ""
    disable_nagle_algorithm = True  # an answer in two writes would otherwise wait for the client's delayed ACK
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._incoming = self.rfile
        self.connection.settimeout(self.server.limits.request_s)
        if isinstance(self.connection, ssl.SSLSocket):
            self.connection.do_handshake()

    def handle_one_request(self) -> None:
        """Read a head, whole and of bounded size, before anything is made of it; then go on as the parent does."""
        try:
            head = self._head()
            self.rfile = io.BytesIO(head)
            self.raw_requestline = self.rfile.readline()
            understood = bool(head) and self.parse_request()
        except RefusedError as refusal:
            self._turn_away(refusal)
            return
        except TimeoutError:
            return
        finally:
            self.rfile = self._incoming
        if not understood:
            return
        answer = {"POST": self.do_POST, "GET": self.do_GET}.get(self.command)
        try:
            if answer is None:
                self.send_error(501)
            else:
                answer()
        except TimeoutError:
            self.close_connection = True

    def _head(self) -> bytes:
        """Request line and header fields, with the empty line after them; empty when nobody asks anything any more."""
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
            answer = self.server.answers[self._path()]
            body = self._body()
        except RefusedError as refusal:
            self._turn_away(refusal)
            return
        self.server.connections.answering(self.connection)
        try:
            told = self._answered(answer, body)
        except IntegrityError as refusal:
            self._turn_away(refusal)
        except RefusedError as refusal:
            self._problem(refusal.reason)
        else:
            self._send(200, "application/json", told)

    def _answered(self, answer: Callable[[Mapping[str, Json]], dict[str, Json]], body: bytes) -> bytes:
        """What the server says to a body. `IntegrityError` is one that holds no message, `RefusedError` its refusal."""
        with self.server.turns.turn(str(self.client_address[0])):
            message = parse_object(body)
            if message.keys() != MESSAGES[self.path]:
                raise IntegrityError("malformed", "other keys")
            try:
                return canonical(answer(message))
            except (RefusedError, IntegrityError) as refusal:
                raise RefusedError(refusal.reason) from None
            except Exception:  # noqa: BLE001  (fails closed, and says nothing)
                raise RefusedError("internal") from None

    def do_GET(self) -> None:
        try:
            self._within_rate()
            if self.path != KEYS_PATH:
                raise RefusedError("not-found")  # noqa: TRY301  (one way out for every refusal)
        except RefusedError as refusal:
            self._turn_away(refusal)
            return
        self.server.connections.answering(self.connection)
        self._send(200, "application/json", canonical(self.server.keys()))

    def _within_rate(self) -> None:
        verdict = self.server.peers.ask(str(self.client_address[0]))
        if verdict != "yes":
            raise RefusedError("rate", verdict)

    def _path(self) -> str:
        if self.path not in self.server.answers:
            raise RefusedError("not-found")
        return self.path

    def _body(self) -> bytes:
        if self.headers.get_all("Content-Type") != ["application/json"]:
            raise RefusedError("content-type")
        lengths = self.headers.get_all("Content-Length") or []
        if "Transfer-Encoding" in self.headers or len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()):
            raise RefusedError("malformed", "one Content-Length")
        length = int(lengths[0][:12])
        if length > MESSAGE_LIMIT:
            raise RefusedError("too-large")
        body = self.rfile.read(length)
        if len(body) != length:
            raise RefusedError("malformed", "cut off")
        return body

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the standard library refuses on its own (a PUT, a line that is no request) is a problem document too."""
        self._turn_away(RefusedError("not-found" if code == 501 else "malformed"))  # noqa: PLR2004

    def _turn_away(self, refusal: RefusedError | IntegrityError) -> None:
        """Refused before it reached the server: a line of its own in the log, and of a flood only the first."""
        if refusal.detail != _STILL:
            with contextlib.suppress(OSError):  # nothing was decided that has to be written down
                self.server.audit(AuditLine(event="request", decision="refused", reason=refusal.reason))
        self._problem(refusal.reason)
        self._drain()

    def _drain(self) -> None:
        """Read a little of what nobody wants: closing on it unread would reset the connection before the answer is seen."""
        left = _DRAIN_LIMIT
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_WR)
            while left > 0 and (piece := self._incoming.read1(min(left, _PIECE))):
                left -= len(piece)

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
        self.server.connections.waiting(self.connection)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Quiet: what was decided is in the audit log or the report."""
