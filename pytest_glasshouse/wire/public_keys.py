"""Every public key received from elsewhere is checked here: Ed25519 to verify with, X25519 to seal to and to open with.

Knows 32 bytes and the points of small order of both curves. Under a key of small order one signature can fit many messages,
and what is sealed to one anybody can open: none of them is a key here, in whatever spelling.
"""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

from pytest_glasshouse.errors import IntegrityError

KEY_BYTES = 32
_P = 2**255 - 19
#: y of the eight points of Ed25519's curve whose order divides 8, whatever the sign of x: -1, 1, 0 and two of order 8.
ED25519_SMALL = frozenset({
    0, 1, _P - 1,
    2707385501144840649318225287225658788936804267575313519463743609750303402022,
    55188659117513257062467267217118295137698188065244968500265048394206261417927,
})  # fmt: skip
#: u of the points of Curve25519 and its twist whose order divides 8.
X25519_SMALL = frozenset({
    0, 1, _P - 1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
})  # fmt: skip


def ed25519(raw: bytes) -> Ed25519PublicKey:
    """The key of these bytes. Raises `IntegrityError("malformed")`.

    Keys are named and compared by their bytes, so the few that have a second spelling have none here.
    """
    y = _coordinate(raw, "an Ed25519")
    if y % _P in ED25519_SMALL or y >= _P:
        raise IntegrityError("malformed", "saw a key of small order, or in another spelling than its own")
    return Ed25519PublicKey.from_public_bytes(raw)


def x25519(raw: bytes) -> X25519PublicKey:
    """The key of these bytes. Raises `IntegrityError("malformed")`."""
    if _coordinate(raw, "an X25519") % _P in X25519_SMALL:
        raise IntegrityError("malformed", "saw a key of small order")
    return X25519PublicKey.from_public_bytes(raw)


#: How a line of an OpenSSH public key begins.
OPENSSH = "ssh-ed25519"


def ed25519_of_openssh(line: str) -> Ed25519PublicKey:
    """The key of a line as `ssh-keygen -t ed25519` writes it (RFC 8709). Raises `IntegrityError("malformed")`."""
    try:
        key = load_ssh_public_key(" ".join(line.split()[:2]).encode())
    except (ValueError, UnsupportedAlgorithm):
        raise IntegrityError("malformed", "expected an OpenSSH public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise IntegrityError("malformed", "expected an Ed25519 public key, saw another kind of key")
    return ed25519(key.public_bytes_raw())


def ed25519_of_pem(text: str) -> Ed25519PublicKey:
    """The key of a PEM file's text. Raises `IntegrityError("malformed")`, for another kind of key too."""
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IntegrityError("malformed", "expected a PEM public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise IntegrityError("malformed", "expected an Ed25519 public key, saw another kind of key")
    return ed25519(key.public_bytes_raw())


def _coordinate(raw: bytes, kind: str) -> int:
    """Y or u: 255 bits, little-endian. The top bit is a sign, or means nothing."""
    if len(raw) != KEY_BYTES:
        raise IntegrityError("malformed", f"not {kind} public key")
    return int.from_bytes(raw, "little") & (2**255 - 1)
