"""FLOE written down once more, from its specification alone."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand


def by_hand(key: bytes, aad: bytes, plain: bytes, *, segment: int, rotation: int) -> bytes:
    """The format once more, as its specification describes it and nothing else; randomness is SHAKE-128 of a counter."""
    drawn = iter(range(1, 1 << 20))

    def random(size: int) -> bytes:
        return hashlib.shake_128(str(next(drawn)).encode()).digest(size)

    params, iv = bytes(2) + segment.to_bytes(4, "big") + (32).to_bytes(4, "big"), random(32)

    def derived(from_key: bytes, purpose: bytes, size: int) -> bytes:
        return HKDFExpand(SHA384(), size, params + iv + purpose + aad).derive(from_key)

    message_key = derived(key, b"MESSAGE_KEY:", 48)
    out = params + iv + derived(key, b"HEADER_TAG:", 32)
    pieces = [plain[at : at + segment - 32] for at in range(0, len(plain), segment - 32)] or [b""]
    for number, piece in enumerate(pieces):
        final = number == len(pieces) - 1
        segment_key = derived(message_key, b"DEK:" + (number >> rotation << rotation).to_bytes(8, "big"), 32)
        nonce = random(12)
        sealed = AESGCM(segment_key).encrypt(nonce, piece, number.to_bytes(8, "big") + bytes([final]))
        out += ((len(piece) + 32).to_bytes(4, "big") if final else b"\xff" * 4) + nonce + sealed
    return out
