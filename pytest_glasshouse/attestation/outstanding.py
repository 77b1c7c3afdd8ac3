"""Which keys are out: the owner's question, and the server's signed answer.

Knows two tokens. Refuses to tell anybody but the owner, and a client to believe anybody but the server it asked, or an
answer to another question. What is told is in no way secret to whoever holds the ledger: session names, digests, times.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pytest_glasshouse.attestation.ledger import Ledger
from pytest_glasshouse.attestation.messages import Message, shaped, text
from pytest_glasshouse.attestation.verifier import need
from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_OUTSTANDING, TYP_QUERY
from pytest_glasshouse.wire.tokens import expect, sign, thumbprint, verify

#: `run` names the run that is asked about; "" asks about all of them.
QUERY_SHAPE: dict[str, type] = {"iss": str, "aud": str, "jti": str, "exp": int, "run": str}
OUTSTANDING_SHAPE: dict[str, type] = {"iss": str, "iat": int, "query_sha256": str, "total": int, "releases": list}
RELEASE_SHAPE: dict[str, type] = {
    "nonce": str, "sub": str, "run": str, "manifest": str, "released_at": int, "deadline": int,
}  # fmt: skip
QUERY_LIFETIME_S = 120
#: As many as one answer holds, a token being 64 KiB at most; `total` says how many there are.
LISTED = 64


@dataclass(frozen=True, kw_only=True)
class Outstanding:
    """Releases that nobody had completed at `at` (wall seconds of the server), oldest first; `total` counts all of them."""

    at: int
    total: int
    releases: tuple[dict[str, Json], ...]

    def overdue(self) -> tuple[dict[str, Json], ...]:
        """Those whose deadline had passed: no leg will complete them."""
        return tuple(each for each in self.releases if int(str(each["deadline"])) <= self.at)


def query_claims(*, owner: Ed25519PublicKey, server: Ed25519PublicKey, run: str, now: int) -> dict[str, Json]:
    """What the owner signs (`TYP_QUERY`) to ask `server` about `run`, or with "" about every run."""
    return {
        "iss": thumbprint(owner),
        "aud": thumbprint(server),
        "jti": secrets.token_hex(16),
        "exp": now + QUERY_LIFETIME_S,
        "run": run,
    }


def answer(message: Message, *, owner: Ed25519PublicKey, signing: Ed25519PrivateKey, ledger: Ledger, now: int) -> dict[str, Json]:
    """`{query}` -> `{outstanding}`. Raises `RefusedError` or `IntegrityError` for a question that is not the owner's."""
    # 1. Signed by the owner, for this server, lately.
    query = text(message, "query")
    claims = verify(query, key=owner, typ=TYP_QUERY)
    shaped(claims, QUERY_SHAPE, "query")
    server = thumbprint(signing.public_key())
    need(claims["iss"] == thumbprint(owner) and claims["aud"] == server, "query", "iss or aud")
    expires = int(str(claims["exp"]))
    need(now < expires <= now + QUERY_LIFETIME_S, "query", "expired, or too long")
    # 2. What the ledger says, signed: an empty answer is worth nothing unless it is this server's, to this question.
    found = ledger.outstanding(run=str(claims["run"]))
    told: dict[str, Json] = {
        "iss": server,
        "iat": now,
        "query_sha256": sha256_hex(query.encode()),
        "total": len(found),
        "releases": [*found[:LISTED]],
    }
    return {"outstanding": sign(told, key=signing, typ=TYP_OUTSTANDING)}


def read_answer(said: Mapping[str, Json], *, server: Ed25519PublicKey, query: str) -> Outstanding:
    """What `server` answered to `query`. Raises `IntegrityError`."""
    token = said.get("outstanding")
    if not isinstance(token, str):
        raise IntegrityError("malformed", "no answer about outstanding releases")
    claims = verify(token, key=server, typ=TYP_OUTSTANDING)
    expect(claims, OUTSTANDING_SHAPE)
    if claims["iss"] != thumbprint(server) or claims["query_sha256"] != sha256_hex(query.encode()):
        raise IntegrityError("jwt-claims", "an answer to another question")
    listed, total, at = claims["releases"], claims["total"], claims["iat"]
    releases = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    for each in releases:
        expect(each, RELEASE_SHAPE)
    if not isinstance(total, int) or not isinstance(at, int) or len(releases) != min(total, LISTED):
        raise IntegrityError("malformed", "releases that are not told")
    return Outstanding(at=at, total=total, releases=tuple(releases))
