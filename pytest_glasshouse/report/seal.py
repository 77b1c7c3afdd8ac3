"""Seals: a JWS over the canonical form of an object, by the report key.

A seal shows that an object has not changed since the holder of the key wrote it, not that what it states is true; `check`
answers that.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.wire.bounded_file import KEY_FILE_LIMIT
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.own_file import read_own
from pytest_glasshouse.wire.tokens import sign, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

Sealable = TypeVar("Sealable", bound="Mapping[str, object]")

SEAL_TYP = "glasshouse-seal+jws"
KEY_VARIABLE = "GLASSHOUSE_SIGNING_KEY"


_OPENSSH = b"BEGIN OPENSSH PRIVATE KEY"


def report_key(environ: Mapping[str, str]) -> Ed25519PrivateKey:
    """The key named by `GLASSHOUSE_SIGNING_KEY` (the path of an unencrypted PEM or OpenSSH file), else one made for this run.

    Raises `ConfigurationError` without showing the path's content, also for a key that others may read or change.
    """
    path = environ.get(KEY_VARIABLE)
    if not path:
        return Ed25519PrivateKey.generate()
    pem = read_own(Path(path), what=KEY_VARIABLE, limit=KEY_FILE_LIMIT)
    try:
        key: object = (load_ssh_private_key if _OPENSSH in pem else load_pem_private_key)(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        expected = "expected an unencrypted private key (openssl genpkey -algorithm ed25519, or ssh-keygen -t ed25519)"
        raise ConfigurationError(f"{KEY_VARIABLE}: {expected}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{KEY_VARIABLE}: expected an Ed25519 key, saw {type(key).__name__.lstrip('_')}")
    return key


def sealed(body: Sealable, *, key: Ed25519PrivateKey) -> Sealable:
    """The object with its seal as the last member. A seal it already had is replaced."""
    bare = {name: value for name, value in body.items() if name != "seal"}
    return cast("Sealable", {**bare, "seal": sign({"sha256": _digest(bare)}, key=key, typ=SEAL_TYP)})


def verify_seal(body: Mapping[str, object], *, key: Ed25519PublicKey, lists: Mapping[str, bytes] | None = None) -> bytes:
    """The object's canonical form with its seal, if that is by `key` and over what the object holds.

    `lists` are the canonical forms of members, where they are known. Raises `IntegrityError`.
    """
    token = body.get("seal")
    if not isinstance(token, str):
        raise IntegrityError("seal-missing")
    claims = verify(token, key=key, typ=SEAL_TYP)
    before, after = _canonical_around_seal(body, lists or {})
    if claims != {"sha256": sha256_hex(_braced(before, after))}:
        raise IntegrityError("seal-digest", "the object was changed after it was sealed")
    return _braced(before, b'"seal":' + canonical(token), after)


def _digest(bare: Mapping[str, object]) -> str:
    return sha256_hex(canonical(dict(bare)))


def _canonical_around_seal(body: Mapping[str, object], lists: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """The members that come before the seal in the canonical form, and those that come after it (RFC 8785, section 3.2.3).

    An object is written once for its own seal and for that of the document it is in: most of a check's time is writing.
    """
    if lists:
        names = sorted((name for name in body if name != "seal"), key=lambda name: name.encode("utf-16-be", "surrogatepass"))
        texts = [canonical(name) + b":" + (lists[name] if name in lists else canonical(body[name])) for name in names]
        split = sum(name < "seal" for name in names)
        return b",".join(texts[:split]), b",".join(texts[split:])
    before = canonical({name: value for name, value in body.items() if name < "seal"})
    after = canonical({name: value for name, value in body.items() if name > "seal"})
    return before[1:-1], after[1:-1]


def _braced(*members: bytes) -> bytes:
    return b"{" + b",".join(filter(None, members)) + b"}"
