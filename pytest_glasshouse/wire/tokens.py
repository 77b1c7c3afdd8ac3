"""Signed messages: compact JWS, Ed25519 and nothing else, one header per kind of token.

Knows how a token is signed and read. Refuses to choose a key by a token's own claims: the caller names key and kind,
and the header must be exactly the one that follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import public_keys
from pytest_glasshouse.wire.canonical import Json, b64u, canonical, parse_strict, sha256_hex, unb64u

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

#: The longest token that is looked at.
TOKEN_LIMIT = 65_536


def sign(claims: Mapping[str, object], *, key: Ed25519PrivateKey, typ: str) -> str:
    """`claims` in their canonical bytes, signed by `key` as a token of kind `typ`."""
    from joserfc import jws
    from joserfc.jwk import OKPKey

    return jws.serialize_compact(
        _header(key.public_key(), typ), canonical(dict(claims)), OKPKey.import_key(key), algorithms=["Ed25519"]
    )


def verify(token: str, *, key: Ed25519PublicKey, typ: str) -> dict[str, Json]:
    """The claims of `token`, signed by `key` as a token of kind `typ`.

    Raises `IntegrityError`: `malformed`, `too-large`, `jws-header`, `signature` or `claims-set`. What the claims mean
    is the caller's to judge.
    """
    header, payload, _signature = _split(token)
    if _object(header, "malformed") != _header(key, typ):
        raise IntegrityError("jws-header", f"expected alg Ed25519, typ {typ} and the signer's own kid, nothing else")
    if not _genuine(token, public_text(key)):
        raise IntegrityError("signature")
    return _claims(payload)


@lru_cache(maxsize=256)
def _genuine(token: str, key_text: str) -> bool:
    """Whether the signature is this key's. Each finding of a row reads the same few tokens again."""
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        # The signature is judged here; header and payload are judged by our own parser, which is stricter.
        return jws.deserialize_compact(token, _jwk(key_text), algorithms=["Ed25519"]) is not None
    except (JoseError, ValueError, TypeError):
        return False


@lru_cache(maxsize=64)
def _jwk(key_text: str) -> OKPKey:
    from joserfc.jwk import OKPKey

    return OKPKey.import_key(public_key(key_text))


def peek(token: str) -> dict[str, Json]:
    """The claims of `token`, unverified: for display, and to find the key that must have signed it."""
    return _claims(_split(token)[1])


def peek_kid(token: str) -> str:
    """The key id `token` claims, to find the key that must have signed it."""
    kid = _object(_split(token)[0], "malformed").get("kid")
    if not isinstance(kid, str):
        raise IntegrityError("jws-header", "no kid")
    return kid


def thumbprint(public: Ed25519PublicKey) -> str:
    """RFC 7638 thumbprint, base64url: how a key is named everywhere."""
    return _thumbprint(public_text(public))


@lru_cache(maxsize=1024)
def _thumbprint(text: str) -> str:
    jwk = {"crv": "Ed25519", "kty": "OKP", "x": text}
    return b64u(bytes.fromhex(sha256_hex(canonical(jwk))))


def public_text(public: Ed25519PublicKey) -> str:
    """The key's 32 bytes, base64url."""
    return b64u(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def public_key(text: str) -> Ed25519PublicKey:
    """The key `public_text` wrote. Raises `IntegrityError("malformed")`, for a key of small order too."""
    return public_keys.ed25519(unb64u(text))


def expect(claims: Mapping[str, Json], shape: Mapping[str, type]) -> None:
    """Refuse claims that are not exactly those of `shape` (`claims-set`) or not of exactly its types (`claims-type`)."""
    if claims.keys() != shape.keys():
        raise IntegrityError("claims-set", ", ".join(sorted(claims.keys() ^ shape.keys())))
    for name, kind in shape.items():
        if type(claims[name]) is not kind:  # exactly: True is no integer here
            raise IntegrityError("claims-type", name)


def _header(key: Ed25519PublicKey, typ: str) -> dict[str, Json]:
    return {"alg": "Ed25519", "kid": thumbprint(key), "typ": typ}


def _split(token: str) -> tuple[str, str, str]:
    if len(token) > TOKEN_LIMIT:
        raise IntegrityError("too-large", "token")
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004
        raise IntegrityError("malformed", "a compact JWS has three segments")
    return parts[0], parts[1], parts[2]


def _object(segment: str, reason: str) -> dict[str, Json]:
    value = parse_strict(unb64u(segment))
    if not isinstance(value, dict):
        raise IntegrityError(reason, "not a JSON object")
    return value


def _claims(segment: str) -> dict[str, Json]:
    claims = _object(segment, "claims-set")
    if canonical(claims) != unb64u(segment):
        raise IntegrityError("malformed", "claims not in their canonical form")
    return claims
