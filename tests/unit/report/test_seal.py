"""A seal shows that an object has not changed since it was written, and by which key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.report.seal import KEY_VARIABLE, report_key, sealed, verify_seal
from pytest_glasshouse.wire.canonical import canonical
from tests.unit.report import example

KEY = Ed25519PrivateKey.generate()
BODY = {"overheadPct": 1.25, "name": "a", "rounds": 1}


def pem(key: Any, encryption: Any = None) -> bytes:
    data: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    return data


def test_sealed_object_verifies_and_ends_in_its_seal() -> None:
    body = sealed(BODY, key=KEY)

    assert list(body)[-1] == "seal"
    assert verify_seal(body, key=KEY.public_key()) == canonical(body)


def test_sealing_again_replaces_the_seal() -> None:
    assert sealed(sealed(BODY, key=KEY), key=KEY) == sealed(BODY, key=KEY)


@pytest.mark.parametrize("change", [{"overheadPct": 1.26}, {"name": "b"}, {"more": 1}])
def test_any_change_breaks_the_seal(change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="seal-digest"):
        verify_seal({**sealed(BODY, key=KEY), **change}, key=KEY.public_key())


def test_seal_of_another_key_is_refused() -> None:
    with pytest.raises(IntegrityError):
        verify_seal(sealed(BODY, key=KEY), key=example.KEYS.report.public_key())


def test_object_without_a_seal_is_refused() -> None:
    with pytest.raises(IntegrityError, match="seal-missing"):
        verify_seal(BODY, key=KEY.public_key())


def test_key_of_the_user_is_read_from_a_pem_file(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(pem(KEY))
    path.chmod(0o600)

    assert report_key({KEY_VARIABLE: str(path)}).public_key() == KEY.public_key()


def test_without_a_key_one_is_made_for_the_run() -> None:
    assert report_key({}).public_key() != report_key({}).public_key()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nonsense", "expected an unencrypted private key"),
        (pem(KEY, BestAvailableEncryption(b"pass")), "expected an unencrypted private key"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "expected an Ed25519 key"),
    ],
)
def test_unusable_key_file_is_refused_without_showing_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(ConfigurationError, match=message) as caught:
        report_key({KEY_VARIABLE: str(path)})

    assert "nonsense" not in str(caught.value)


def test_missing_key_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        report_key({KEY_VARIABLE: str(tmp_path / "none.pem")})
