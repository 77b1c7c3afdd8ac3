"""Evidence with a wrong envelope: header, signature or encoding. None spends the nonce, or any sender could spend it."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import Attempt, TamperTestbed
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, b64u, canonical, unb64u
from pytest_glasshouse.wire.evidence import TYP_EVIDENCE, TYP_HEAD, hpke_text

Forge = Callable[[Attempt], str]


def _case(name: str, reason: str, forge: Forge) -> Case:
    def play(testbed: TamperTestbed) -> None:
        attempt = testbed.attempt()
        attempt.release(forge(attempt))

    return Case(name=f"jws-{name}", play=play, expected_reason=reason, caught_by="release 1", nonce="open")


def _signed(attempt: Attempt, header: bytes, payload: bytes, key: Ed25519PrivateKey | None = None) -> str:
    """Any header and payload, validly signed."""
    signed = f"{b64u(header)}.{b64u(payload)}"
    return f"{signed}.{b64u((key or attempt.ak).sign(signed.encode()))}"


def _header(attempt: Attempt, **changes: Json) -> bytes:
    header: dict[str, Json] = {"alg": "Ed25519", "kid": tokens.thumbprint(attempt.ak.public_key()), "typ": TYP_EVIDENCE}
    return canonical({**header, **changes})


def _with_header(**changes: Json) -> Forge:
    return lambda attempt: _signed(attempt, _header(attempt, **changes), canonical(attempt.claims))


def _unsigned(attempt: Attempt) -> str:
    return f"{b64u(_header(attempt, alg='none'))}.{b64u(canonical(attempt.claims))}."


def _hs256(attempt: Attempt) -> str:
    """The public key used as an HMAC secret."""
    signed = f"{b64u(_header(attempt, alg='HS256'))}.{b64u(canonical(attempt.claims))}"
    secret = unb64u(tokens.public_text(attempt.ak.public_key()))
    return f"{signed}.{b64u(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def _embedded_key(attempt: Attempt) -> str:
    attacker = Ed25519PrivateKey.generate()
    jwk: Json = {"crv": "Ed25519", "kty": "OKP", "x": tokens.public_text(attacker.public_key())}
    return _signed(attempt, _header(attempt, jwk=jwk), canonical(attempt.claims), attacker)


def _unknown_key(attempt: Attempt) -> str:
    return tokens.sign(attempt.claims, key=Ed25519PrivateKey.generate(), typ=TYP_EVIDENCE)


def _signature_of_another_key(attempt: Attempt) -> str:
    return _signed(attempt, _header(attempt), canonical(attempt.claims), Ed25519PrivateKey.generate())


def _swapped_ephemeral_key(attempt: Attempt) -> str:
    """The attacker's key in place of the leg's, swapped in transit: the signature covers the leg's."""
    header, _, signature = attempt.token().split(".")
    cnf = {**attempt.claims["cnf"], "hpke": hpke_text(X25519PrivateKey.generate().public_key())}
    return f"{header}.{b64u(canonical({**attempt.claims, 'cnf': cnf}))}.{signature}"


def _flipped(attempt: Attempt) -> str:
    header, payload, signature = attempt.token().split(".")
    raw = bytearray(unb64u(payload))
    raw[20] ^= 1
    return f"{header}.{b64u(bytes(raw))}.{signature}"


def _stripped(attempt: Attempt) -> str:
    return attempt.token().rpartition(".")[0] + "."


def _duplicate_in_header(attempt: Attempt) -> str:
    header = _header(attempt)
    return _signed(attempt, b'{"alg":"none",' + header[1:], canonical(attempt.claims))


def _duplicate_claim(attempt: Attempt) -> str:
    return _signed(attempt, _header(attempt), b'{"sub":"somebody",' + canonical(attempt.claims)[1:])


def _float_claim(attempt: Attempt) -> str:
    payload = canonical(attempt.claims).replace(b'"manifest_version":1', b'"manifest_version":1.0')
    return _signed(attempt, _header(attempt), payload)


def _respaced(attempt: Attempt) -> str:
    return _signed(attempt, _header(attempt), json.dumps(attempt.claims).encode())


CASES = (
    _case("alg-none", "jws-header", _unsigned),
    _case("alg-hs256-with-the-public-key", "jws-header", _hs256),
    _case("alg-eddsa", "jws-header", _with_header(alg="EdDSA")),
    _case("alg-in-lower-case", "jws-header", _with_header(alg="ed25519")),
    _case("embedded-key", "jws-header", _embedded_key),
    _case("key-url", "jws-header", _with_header(jku="https://attacker.example/keys")),
    _case("unknown-kid", "jws-header", _unknown_key),
    _case("kid-a-number", "jws-header", _with_header(kid=1)),
    _case("crit", "jws-header", _with_header(crit=["exp"])),
    _case("crit-empty", "jws-header", _with_header(crit=[])),
    _case("unencoded-payload", "jws-header", _with_header(b64=False)),
    _case("typ-of-another-kind", "jws-header", _with_header(typ=TYP_HEAD)),
    _case("typ-jwt", "jws-header", _with_header(typ="JWT")),
    _case("header-a-list", "malformed", lambda a: _signed(a, b"[]", canonical(a.claims))),
    _case("header-key-twice", "malformed", _duplicate_in_header),
    _case("signed-by-another-under-our-kid", "signature", _signature_of_another_key),
    _case("ephemeral-key-swapped-in-flight", "signature", _swapped_ephemeral_key),
    _case("payload-bit", "signature", _flipped),
    _case("signature-stripped", "signature", _stripped),
    _case("signature-cut", "signature", lambda a: a.token()[:-4]),
    _case("signature-padded", "signature", lambda a: a.token() + "=="),
    _case("trailing-newline", "signature", lambda a: a.token() + "\n"),
    _case("header-padded", "malformed", lambda a: a.token().replace(".", "=.", 1)),
    _case("two-segments", "malformed", lambda a: a.token().rpartition(".")[0]),
    _case("four-segments", "malformed", lambda a: a.token() + ".e30"),
    _case("empty", "malformed", lambda _: "."),
    _case("claim-twice", "malformed", _duplicate_claim),
    _case("claim-a-float", "malformed", _float_claim),
    _case("claims-respaced", "malformed", _respaced),
    _case("claims-a-list", "claims-set", lambda a: _signed(a, _header(a), b"[]")),
    _case("claims-not-json", "malformed", lambda a: _signed(a, _header(a), b"evidence")),
    _case("claims-not-utf8", "malformed", lambda a: _signed(a, _header(a), b'{"a":"\xff"}')),
)
