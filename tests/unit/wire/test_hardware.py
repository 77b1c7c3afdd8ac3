"""What a device is asked with belongs to one session and its keys."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.wire.evidence import Cnf
from pytest_glasshouse.wire.hardware import device_nonce

NONCE = "00" * 31 + "01"


def keys(hpke: int, sig: int) -> Cnf:
    return Cnf(
        hpke=X25519PrivateKey.from_private_bytes(bytes([hpke]) * 32).public_key(),
        sig=Ed25519PrivateKey.from_private_bytes(bytes([sig]) * 32).public_key(),
    )


def test_known_answer() -> None:
    """The same 32 bytes as ever: guest and server may be of different versions."""
    assert device_nonce(NONCE, keys(1, 2)).hex() == "2f1473da4622d95633200c4caec962cfed5e6bcb791a838b5cf45b4041cdddc6"


def test_session_and_both_keys_are_in_it() -> None:
    made = {device_nonce(NONCE, keys(1, 2)), device_nonce(NONCE, keys(1, 3)), device_nonce(NONCE, keys(3, 2))}
    assert len({*made, device_nonce("00" * 32, keys(1, 2))}) == 4
