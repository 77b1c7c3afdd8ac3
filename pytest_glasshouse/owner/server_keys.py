"""A server's published keys: its own key, its owner's key id, and the key that data keys are sealed to.

Knows one signed token. Refuses a key that the pinned server did not sign: an attacker who could replace it would receive the
next data key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.evidence import hpke_key
from pytest_glasshouse.wire.tokens import expect, public_text, thumbprint, verify

TYP_KEYS = "glasshouse-keys+jwt"
KEYS_SHAPE: dict[str, type] = {"iss": str, "server": str, "owner": str, "hpke": str, "iat": int}


@dataclass(frozen=True, kw_only=True)
class PublishedKeys:
    """A server's published keys, as text. `hpke` lasts as long as its process, `server` as long as its state directory."""

    server: str
    owner: str
    hpke: str


def published_claims(*, server: Ed25519PublicKey, owner: Ed25519PublicKey, hpke: str, now: int) -> dict[str, Json]:
    """The claims that the server signs."""
    return {"iss": thumbprint(server), "server": public_text(server), "owner": thumbprint(owner), "hpke": hpke, "iat": now}


def read_published(answer: Mapping[str, Json], *, server: Ed25519PublicKey) -> PublishedKeys:
    """The keys, signed by the pinned `server`. Raises `IntegrityError`."""
    token = answer.get("keys")
    if not isinstance(token, str):
        raise IntegrityError("malformed", "no published keys")
    claims = verify(token, key=server, typ=TYP_KEYS)
    expect(claims, KEYS_SHAPE)
    if claims["iss"] != thumbprint(server) or claims["server"] != public_text(server):
        raise IntegrityError("jwt-claims", "published keys")
    hpke_key(str(claims["hpke"]))
    return PublishedKeys(server=str(claims["server"]), owner=str(claims["owner"]), hpke=str(claims["hpke"]))
