"""Which keys are out: the owner's question, and the server's signed answer.

Knows two tokens. Refuses to tell anybody but the owner, and a client to believe anybody but the server it asked, or an
answer to another question. What is told is in no way secret to whoever holds the ledger: session names, digests, times.
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
    """`{query}` -> `{outstanding}`. Raises `RefusedError` or `IntegrityError` for a question that is not the owner's."""
    # 1. Signed by the owner, for this server, lately.
    query = text_field(message, "query")
    claims = verify(query, key=owner, typ=TYP_QUERY)
    require_shape(claims, QUERY_SHAPE, "query")
    server = thumbprint(signing.public_key())
    require(claims["iss"] == thumbprint(owner) and claims["aud"] == server, "query", "iss or aud")
    expires = int(str(claims["exp"]))
    require(now < expires <= now + QUERY_LIFETIME_S, "query", "expired, or too long")
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
