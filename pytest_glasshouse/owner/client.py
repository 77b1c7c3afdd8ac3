"""The HTTP client of an attestation server, for the host that relays messages.

Knows the messages. Refuses to repeat any of them (after a lost reply to a release the guest attests again) but the completion and
the mark: the same head gets the same receipt, and the same nonce the same mark, so a restart of the server does not cost the leg.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.errors import InfrastructureError, IntegrityError, ProtocolError, RefusedError
from pytest_glasshouse.http_client.exchange import AnswerLimits, NoAnswerError, exchange
from pytest_glasshouse.http_client.routes import Routes
from pytest_glasshouse.owner.outstanding import Outstanding, read_answer
from pytest_glasshouse.owner.server_keys import PublishedKeys, read_published
from pytest_glasshouse.wire.canonical import Json, canonical, parse_object
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.run_plan import TallyRecord, tally_record

TIMEOUT_S = 10.0
#: Limit on an answer's body: a result is larger than the evidence it answers.
_ANSWER_LIMIT = 1 << 20
#: Limit on an answer's head.
_HEAD_LIMIT = 1 << 16
#: The deadline for a whole answer, in multiples of the timeout for a silent connection.
_WHOLE_TIMEOUTS = 3.0
_OK = 200
_RETRY_AFTER_S = 0.5
#: The reason of a request above the rate limit, which was not judged.
_RATE_LIMITED = "rate"


class AttestationClient:
    """One server. Every method raises `RefusedError` with the server's reason, or `InfrastructureError` when none came."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        authority: Path | None = None,
        complete_retry_s: float = 0.0,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """`authority` is a PEM file that verifies the server's certificate.

        Completions and marks are retried for `complete_retry_s`. `environ` names the proxy. Without it none is used:
        an embedded server is reached directly.
        """
        self._url = url.rstrip("/")
        self._complete_retry_s = complete_retry_s
        self._routes = Routes(environ, authority=authority)
        self._limits = AnswerLimits(
            connect_s=timeout_s, quiet_s=timeout_s, whole_s=timeout_s * _WHOLE_TIMEOUTS, most_bytes=_ANSWER_LIMIT + _HEAD_LIMIT
        )

    def published_keys(self, server: Ed25519PublicKey) -> PublishedKeys:
        """The published keys, signed by `server`."""
        return read_published(self._send("GET", "/v1/keys", None, {}), server=server)

    def register(self, registration: str) -> dict[str, Json]:
        """Hand over a package's manifest, policy and sealed data key."""
        return self.ask("/v1/register", {"registration": registration})

    def enrol(self, *, grant: str, ak: str, proof: str) -> dict[str, Json]:
        """Enrol a guest's key under the owner's grant."""
        return self.ask("/v1/enrol", {"grant": grant, "ak": ak, "proof": proof})

    def challenge(self, *, sub: str, plan: str) -> dict[str, Json]:
        """Ask for a nonce: `{nonce, issued_at, expires_in, policy}`."""
        return self.ask("/v1/challenge", {"sub": sub, "plan": plan})

    def release(self, *, evidence: str, log: Sequence[str], devices: Mapping[str, Json] | None = None) -> dict[str, Json]:
        """Present evidence, and that of `devices` where its token names some: `{result, sealed}`."""
        beside: dict[str, Json] = {"devices": dict(devices)} if devices else {}
        return self.ask("/v1/release", {"evidence": evidence, "log": list(log), **beside})

    def complete(self, *, head: str, exit: str, nonce: str) -> dict[str, Json]:  # noqa: A002
        """Present the journal's head and the agent's exit: `{receipt}`."""
        return self._ask_patiently("/v1/complete", {"head": head, "exit": exit, "nonce": nonce})

    def plan(self, plan: str, rows: list[Json]) -> dict[str, Json]:
        """Register what a run is going to measure: `{run_plan}`."""
        return self.ask("/v1/plan", {"plan": plan, "rows": rows})

    def mark(self, request: str) -> str:
        """The server's time, signed for the nonce of the request."""
        given = self._ask_patiently("/v1/mark", {"mark": request}).get("mark")
        if not isinstance(given, str):
            raise ProtocolError("the attestation server's answer has no mark")
        return given

    def tally(self, query: str, *, server: Ed25519PublicKey) -> TallyRecord:
        """What `server` counted of a run. Raises `IntegrityError` for an answer that it did not sign."""
        return tally_record(self.ask("/v1/tally", {"query": query}), server=server, query=query)

    def _ask_patiently(self, path: str, message: dict[str, Json]) -> dict[str, Json]:
        until = time.monotonic() + self._complete_retry_s
        while True:
            try:
                return self.ask(path, message)
            except InfrastructureError:
                if time.monotonic() + _RETRY_AFTER_S >= until:
                    raise
            time.sleep(_RETRY_AFTER_S)

    def outstanding(self, query: str, *, server: Ed25519PublicKey) -> Outstanding:
        """Outstanding releases, signed by `server`. `query` is the owner's (`Owner.sign_query`)."""
        return read_answer(self.ask("/v1/outstanding", {"query": query}), server=server, query=query)

    def ask(self, path: str, message: dict[str, Json]) -> dict[str, Json]:
        """Send one message and return the answer."""
        return self.send(path, canonical(message))

    def send(self, path: str, body: bytes, *, content_type: str = "application/json") -> dict[str, Json]:
        """Send a body as it is: the tamper suite sends what the other methods would not."""
        return self._send("POST", path, body, {"Content-Type": content_type})

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> dict[str, Json]:
        try:
            reply = exchange(method, self._url + path, routes=self._routes, limits=self._limits, headers=headers, body=body)
        except NoAnswerError as error:
            raise InfrastructureError(f"the attestation server did not answer: {error}") from None
        try:
            answer = parse_object(reply.body, limit=_ANSWER_LIMIT)
        except IntegrityError:
            raise ProtocolError("the attestation server's answer is not a JSON object") from None
        if reply.status == _OK:
            return answer
        reason = answer.get("reason")
        if not isinstance(reason, str):
            raise ProtocolError(f"the attestation server answered {reply.status} without a reason")
        if reason == _RATE_LIMITED:
            raise InfrastructureError("the attestation server's rate limit was reached: too many requests from this address")
        raise RefusedError(printable(reason))
