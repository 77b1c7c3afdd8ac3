"""The report key of a run, and the tags that prove that a run directory was written by this account's run.

The report key is the user's (`GLASSHOUSE_SIGNING_KEY`) or is derived for each run from a secret in the account's state
directory. A later process of the account derives it again and another account cannot: it made what is tagged or sealed with it.

A secret that others could read or replace is refused. The rule is not `wire.own_file`'s: a secret is made where there is none,
in a directory of the account, and a link or a file of root is not accepted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.report.seal import KEY_VARIABLE, report_key
from pytest_glasshouse.wire.whole_file import sync_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET = "run.secret"  # noqa: S105  (a file's name)
#: The run ids that the report's schema accepts; they become parts of paths.
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_SECRET_BYTES = 32


def run_key(environ: Mapping[str, str], run_id: str) -> Ed25519PrivateKey:
    """The key that run `run_id` signs with. Raises `ConfigurationError` for a key or a secret that cannot be used.

    Where the account has no state directory the key is random, and the run cannot be resumed.
    """
    if environ.get(KEY_VARIABLE):
        return report_key(environ)
    directory = state_directory(environ)
    secret = None if directory is None else _secret(directory)
    if secret is None:
        return Ed25519PrivateKey.generate()
    return Ed25519PrivateKey.from_private_bytes(_derived(secret, f"report key of {run_id}"))


def state_directory(environ: Mapping[str, str]) -> Path | None:
    """The account's directory for state that outlives a run; None where it has no home."""
    given = environ.get("XDG_STATE_HOME")
    home = environ.get("HOME") or _home_of_account()
    base = Path(given) if given and given.startswith("/") else None if home is None else Path(home) / ".local" / "state"
    return None if base is None or not base.is_absolute() else base / "glasshouse"


class TagKey:
    """HMAC key, derived from a run's report key, that tags what the run writes into its directory."""

    def __init__(self, key: Ed25519PrivateKey, run_id: str) -> None:
        self._key = _derived(key.private_bytes_raw(), f"run directory of {run_id}")

    def tag(self, what: str, data: bytes, *, after: str = "") -> str:
        """The tag of `data` in a file called `what`, following the line tagged `after`: 64 hex digits."""
        digest = hashlib.sha256(data).hexdigest()
        return hmac.digest(self._key, f"{what}\n{after}\n{digest}".encode(), "sha256").hex()

    def holds(self, tag: object, what: str, data: bytes, *, after: str = "") -> bool:
        """Whether `tag` is that tag."""
        return isinstance(tag, str) and tag.isascii() and hmac.compare_digest(tag, self.tag(what, data, after=after))


def _derived(secret: bytes, what: str) -> bytes:
    return hmac.digest(secret, f"pytest-glasshouse v1: {what}".encode(), "sha256")


def _home_of_account() -> str | None:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        return None


def _secret(directory: Path) -> bytes | None:
    """The account's secret, made where there is none; None where the directory cannot be used."""
    path = directory / SECRET
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_shared(directory.stat(), directory)
        with contextlib.suppress(FileNotFoundError):
            return _read(path)
        _make(path)
        return _read(path)
    except OSError:
        return None


def _read(path: Path) -> bytes:
    if path.is_symlink():
        raise ConfigurationError(f"{path}: expected a file, saw a link; remove it to make a new one")
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        found = os.fstat(descriptor)
        _refuse_shared(found, path)
        content = os.read(descriptor, _SECRET_BYTES + 1)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or len(content) != _SECRET_BYTES:
        raise ConfigurationError(f"{path}: expected {_SECRET_BYTES} bytes that only you may read; remove it to make a new one")
    return content


def _make(path: Path) -> None:
    """Make the secret file, atomically: of two processes that try, one wins and both read its secret."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_SECRET_BYTES))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    try:
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)
    finally:
        draft.unlink()
    sync_directory(path.parent)


def _refuse_shared(found: os.stat_result, path: Path) -> None:
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigurationError(f"{path}: belongs to another user, or others may write there; chown it and chmod go-w it")
