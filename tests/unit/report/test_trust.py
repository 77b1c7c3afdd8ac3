"""An invalid key file must not read as no keys: the keys a reader trusts would be ignored in silence."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.wire.tokens import public_text

# Always the same: parameters that differ from worker to worker are different tests.
KEY = public_text(Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())
OTHER_KIND = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def test_keys_and_witnesses_are_read(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"# of the lab\n\n{KEY}\n")
    (tmp_path / "witness").write_text(f"witness {KEY}\n")
    assert Trust.read([tmp_path / "keys"]) == Trust(keys=frozenset({KEY}), witnesses=frozenset())
    assert Trust.read([tmp_path / "witness"]) == Trust(keys=frozenset({KEY}), witnesses=frozenset({KEY}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "saw no key"),
        (b"# only words\n", "saw no key"),
        (f"{KEY[:-1]}\n".encode(), "expected an Ed25519 public key"),
        (f"{KEY}\nnonsense\n".encode(), "expected an Ed25519 public key"),
        (f"wittness {KEY}\n".encode(), "expected a PEM public key, or lines"),
        (f"witness {KEY} {KEY}\n".encode(), "expected a PEM public key, or lines"),
        (b"-----BEGIN PUBLIC KEY-----\nAA\n-----END PUBLIC KEY-----\n", "expected a PEM public key"),
        (OTHER_KIND, "expected an Ed25519 public key"),
        (b"\xff\xfe", "cannot be read as a key file"),
    ],
)
def test_invalid_key_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(ConfigurationError, match=message):
        Trust.read([tmp_path / "keys"])


def test_a_key_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Trust.read([tmp_path / "none"])
