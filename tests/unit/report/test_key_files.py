"""A key file of any shape is a key, or one line that names it."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.owner.keyfiles import read_public
from pytest_glasshouse.report.seal import KEY_VARIABLE, report_key


def pem(der: bytes, kind: str = "PUBLIC KEY") -> bytes:
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n".encode()


def public(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | x25519.X25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


#: SubjectPublicKeyInfo of an unknown algorithm, RFC 5280 section 4.1.
UNKNOWN = bytes.fromhex("300c3006060427818148030200ff")[:14]
SHAPES = {
    "empty": b"",
    "another curve": public(ec.generate_private_key(ec.SECP256R1()).public_key()),
    "RSA": public(rsa.RSAPublicNumbers(65_537, 2**2047 + 1).public_key()),
    "key agreement": public(x25519.X25519PrivateKey.generate().public_key()),
    "unknown algorithm": pem(bytes.fromhex("300d3008060627818148030203") + b"\x03\x01\x00"),
    "unknown algorithm, torn": pem(UNKNOWN),
    "no DER": pem(b"nonsense"),
    "PEM without an end": b"-----BEGIN PUBLIC KEY-----\nAAAA",
    "PEM of a million lines": b"-----BEGIN PUBLIC KEY-----\n" * 1000,
    "private": b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "byte order mark": b"\xef\xbb\xbf" + b"A" * 43,
    "UTF-16": ("A" * 43).encode("utf-16"),
    "Latin-1": b"\xe9" * 43,
    "too short": b"AAAA",
    "another spelling": b"A" * 42 + b"=",
    "three words": b"witness witness " + b"A" * 43,
    "NUL": b"\0" * 43,
    "too large": b"# a comment\n" * 10_000,
}


@pytest.mark.parametrize("content", SHAPES.values(), ids=SHAPES)
def test_invalid_key_is_an_error_of_one_line_wherever_a_key_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)

    for read in (
        lambda: Trust.read([path]),
        lambda: read_public(str(path), what="--owner"),
        lambda: report_key({KEY_VARIABLE: str(path)}),
    ):
        with pytest.raises(ConfigurationError) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
