"""A token is bound to its key and type, in one encoding. (Forged ones are in the tamper suite; here is what it cannot reach.)"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.wire import tokens
from pytest_glasshouse.wire.canonical import Json, b64u, unb64u

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
TYP = "eat+jwt"


def test_a_signed_token_gives_its_claims() -> None:
    claims = {"b": 1, "a": ["é"]}
    token = tokens.sign(claims, key=KEY, typ=TYP)
    assert tokens.verify(token, key=KEY.public_key(), typ=TYP) == claims


def test_a_token_is_the_same_bytes_each_time() -> None:
    """Known answer made by this project: header and claims are canonical and Ed25519 is deterministic."""
    header, payload, _ = tokens.sign({"b": 1, "a": 2}, key=KEY, typ=TYP).split(".")
    kid = tokens.thumbprint(KEY.public_key())
    assert unb64u(header) == f'{{"alg":"Ed25519","kid":"{kid}","typ":"eat+jwt"}}'.encode()
    assert unb64u(payload) == b'{"a":2,"b":1}'


def test_thumbprint_is_the_one_of_rfc_8037() -> None:
    """Appendix A.3 of RFC 8037 gives the thumbprint of this key."""
    public = tokens.public_key("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    assert tokens.thumbprint(public) == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize("text", ["", "AA", b64u(bytes(31)), b64u(bytes(33)), "*"])
def test_a_key_of_another_length_is_malformed(text: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        tokens.public_key(text)
    assert caught.value.reason == "malformed"


def test_a_giant_token_is_not_parsed() -> None:
    with pytest.raises(IntegrityError) as caught:
        tokens.verify("." * (tokens.TOKEN_LIMIT + 1), key=KEY.public_key(), typ=TYP)
    assert caught.value.reason == "too-large"


def test_peek_reads_claims_without_verifying() -> None:
    token = tokens.sign({"a": 1}, key=KEY, typ=TYP)
    unsigned = token.rpartition(".")[0] + "."
    assert tokens.peek(unsigned) == {"a": 1}
    assert tokens.peek_kid(unsigned) == tokens.thumbprint(KEY.public_key())


def test_peek_of_an_invalid_key_id_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        tokens.peek_kid(f"{b64u(b'{}')}.e30.")
    assert caught.value.reason == "jws-header"


@pytest.mark.parametrize(
    ("claims", "reason"),
    [({}, "claims-set"), ({"a": 1, "b": 1}, "claims-set"), ({"a": True}, "claims-type"), ({"a": "1"}, "claims-type")],
)
def test_claims_are_exactly_those_expected(claims: dict[str, Json], reason: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        tokens.expect(claims, {"a": int})
    assert caught.value.reason == reason


def test_expected_claims_pass() -> None:
    """A check that is too strict raises: no honest token would be accepted."""
    tokens.expect({"a": 1}, {"a": int})
