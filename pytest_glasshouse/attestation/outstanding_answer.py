"""Answers the owner's query for outstanding releases with a signed list.

Knows the query and the answer. Refuses queries that the owner did not sign. The answer holds session names, digests and times;
`owner.outstanding` reads it.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from pytest_glasshouse.attestation.ledger import ReleaseLedger
from pytest_glasshouse.attestation.messages import Message, require, require_shape, text_field
from pytest_glasshouse.owner.outstanding import LISTED, QUERY_LIFETIME_S, QUERY_SHAPE
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_OUTSTANDING, TYP_QUERY
from pytest_glasshouse.wire.tokens import sign, thumbprint, verify


def answer_query(
    message: Message, *, owner: Ed25519PublicKey, signing: Ed25519PrivateKey, ledger: ReleaseLedger, now: int
) -> dict[str, Json]:
    """`{query}` -> `{outstanding}`. Raises `RefusedError` or `IntegrityError` for a query that is not the owner's."""
    # 1. Signed by the owner, for this server, not expired.
    query = text_field(message, "query")
    claims = verify(query, key=owner, typ=TYP_QUERY)
    require_shape(claims, QUERY_SHAPE, "query")
    server = thumbprint(signing.public_key())
    require(claims["iss"] == thumbprint(owner) and claims["aud"] == server, "query", "iss or aud")
    expires = int(str(claims["exp"]))
    require(now < expires <= now + QUERY_LIFETIME_S, "query", "expired, or too long")
    # 2. The ledger's list, signed with the query's digest: otherwise an empty answer could be forged or replayed.
    found = ledger.outstanding(run=str(claims["run"]))
    answer: dict[str, Json] = {
        "iss": server,
        "iat": now,
        "query_sha256": sha256_hex(query.encode()),
        "total": len(found),
        "releases": [*found[:LISTED]],
    }
    return {"outstanding": sign(answer, key=signing, typ=TYP_OUTSTANDING)}
