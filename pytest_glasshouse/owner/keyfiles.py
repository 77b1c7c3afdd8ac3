"""Keys on disk: the owner's, the server's, and pinned public keys.

Knows files. Refuses a private key that other users may read, any key that they may change, and to overwrite a key.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire.bounded_file import KEY_FILE_LIMIT
from pytest_glasshouse.wire.own_file import check_own, read_own
from pytest_glasshouse.wire.public_keys import OPENSSH, ed25519_of_openssh, ed25519_of_pem
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import public_key, public_text

SERVER_KEY = "server.key"


def write_owner(path: Path, owner: Owner) -> Path:
    """Write the owner's private keys to a new file of mode 0600, and the public key beside it; returns the latter's path."""
    _write_new(path, owner.to_text().reveal() + b"\n", 0o600)
    public = path.with_name(path.name + ".pub")
    _write_new(public, f"{owner.public_text}\n".encode(), 0o644)
    return public


def read_owner(path: Path, *, what: str) -> Owner:
    """The owner that `write_owner` wrote. `what` is the option that errors name."""
    content = read_own(path, what=what, limit=KEY_FILE_LIMIT)
    try:
        return Owner.from_text(Secret(content.strip()))
    except IntegrityError:
        raise ConfigurationError(f"{what}: {path} holds no owner's key; make one with `glasshouse keygen`") from None


def server_key(directory: Path) -> Ed25519PrivateKey:
    """The server's key in its state `directory`; both are created when missing."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"--state {directory}: cannot be made ({error.strerror})") from None
    check_own(directory, what="--state")
    path = directory / SERVER_KEY
    if not path.exists():
        made = Ed25519PrivateKey.generate()
        _write_new(path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    try:
        key = load_pem_private_key(read_own(path, what="--state", limit=KEY_FILE_LIMIT), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigurationError(f"--state: {path} is no private key; move it away to begin as another server") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"--state: {path} is no Ed25519 key; move it away to begin as another server")
    directory.joinpath("server.pub").write_text(public_text(key.public_key()) + "\n", encoding="ascii")
    return key


def read_public(given: str, *, what: str) -> Ed25519PublicKey:
    """A public key, `given` as a file (PEM, or one line) or as the text of that line."""
    text = given
    try:
        path = Path(given).expanduser()
        if path.is_file():
            text = read_own(path, what=what, limit=KEY_FILE_LIMIT, secret=False).decode("ascii")
    except (OSError, ValueError, RuntimeError):  # RuntimeError: ~ cannot be expanded
        text = given
    expected = "expected an Ed25519 public key: a PEM file, a file of one base64url or OpenSSH line, or that line"
    if "PRIVATE KEY" in text or '"signing"' in text:
        raise ConfigurationError(f"{what}: that is a private key; give the public one (a `.pub` file)")
    try:
        if "-----BEGIN" in text:
            return ed25519_of_pem(text)
        if text.startswith(f"{OPENSSH} "):
            return ed25519_of_openssh(text)
        return public_key("".join(line for line in text.split() if line))
    except IntegrityError as error:
        seen = error.detail if "saw" in error.detail else "saw none"
        raise ConfigurationError(f"{what}: {expected}; {seen}") from None


def _write_new(path: Path, content: bytes, mode: int) -> None:
    """Create the file with its whole content or not at all, never over another file."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.link(draft, path)
    except OSError as error:
        if os.path.lexists(path):
            raise ConfigurationError(f"{path}: exists, and a key is not written over; choose another name") from None
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror})") from None
    finally:
        with contextlib.suppress(OSError):  # the draft may not exist
            draft.unlink()
