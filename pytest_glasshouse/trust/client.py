"""Speaks to an attestation server over HTTP, for the host that relays.

Knows the five messages. Refuses to try any of them twice: a lost reply to a release means attesting anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import InfrastructureError, IntegrityError, ProtocolError, RefusedError
from pytest_glasshouse.wire.canonical import Json, canonical, parse_object

if TYPE_CHECKING:
    import urllib3

TIMEOUT_S = 10.0
#: A result is larger than the evidence it answers, and a registration's answer is small.
_ANSWER_LIMIT = 1 << 20
_OK = 200
_CONNECTIONS = 8


class AttestationClient:
    """One server. Every method raises `RefusedError` with the server's reason, or `InfrastructureError` when none came."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        import urllib3

        self._url = url.rstrip("/")
        self._http: urllib3.PoolManager = urllib3.PoolManager(
            maxsize=_CONNECTIONS, retries=False, timeout=urllib3.Timeout(timeout_s)
        )

    def register(self, registration: str) -> dict[str, Json]:
        """Hand over a package's manifest, policy and sealed data key."""
        return self.ask("/v1/register", {"registration": registration})

    def enrol(self, *, grant: str, ak: str, proof: str) -> dict[str, Json]:
        """Enrol a guest's key under the owner's grant."""
        return self.ask("/v1/enrol", {"grant": grant, "ak": ak, "proof": proof})

    def challenge(self, *, sub: str, plan: str) -> dict[str, Json]:
        """Ask for a nonce: `{nonce, issued_at, expires_in, policy}`."""
        return self.ask("/v1/challenge", {"sub": sub, "plan": plan})

    def release(self, *, evidence: str, log: Sequence[str]) -> dict[str, Json]:
        """Present evidence: `{result, sealed}`."""
        return self.ask("/v1/release", {"evidence": evidence, "log": list(log)})

    def complete(self, *, head: str, exit: str, nonce: str) -> dict[str, Json]:  # noqa: A002
        """Present the journal's head and the agent's exit: `{receipt}`."""
        return self.ask("/v1/complete", {"head": head, "exit": exit, "nonce": nonce})

    def ask(self, path: str, message: dict[str, Json]) -> dict[str, Json]:
        """One message, one answer."""
        return self.send(path, canonical(message))

    def send(self, path: str, body: bytes, *, content_type: str = "application/json") -> dict[str, Json]:
        """One body as it is. The tamper suite sends what no honest client would."""
        import urllib3

        try:
            reply = self._http.request("POST", self._url + path, body=body, headers={"Content-Type": content_type})
        except urllib3.exceptions.HTTPError as error:
            raise InfrastructureError(f"the attestation server did not answer: {type(error).__name__}") from None
        try:
            answer = parse_object(reply.data, limit=_ANSWER_LIMIT)
        except IntegrityError:
            raise ProtocolError("the attestation server's answer is not a JSON object") from None
        if reply.status == _OK:
            return answer
        reason = answer.get("reason")
        if not isinstance(reason, str):
            raise ProtocolError(f"the attestation server answered {reply.status} without a reason")
        raise RefusedError(reason)

    def close(self) -> None:
        """Close its connections."""
        self._http.clear()
