"""How a secret may be spelled where it does not belong."""

from __future__ import annotations

import base64
from collections.abc import Iterator


def spellings(secret: bytes) -> Iterator[bytes]:
    """As it is, in hex, in base64 wherever it begins, and as Python prints it."""
    yield secret
    yield secret.hex().encode()
    for skip in range(3):
        text = base64.b64encode(b"\0" * skip + secret)[4 if skip else 0 : -4]
        yield text
        yield text.translate(bytes.maketrans(b"+/", b"-_"))
    yield repr(secret)[2:-1].encode()


def halves(secret: bytes) -> Iterator[bytes]:
    yield from (secret[:16], secret[16:])
