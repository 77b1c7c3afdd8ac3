"""What others may change, or read where it is a secret, is refused with what to do about it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pytest_glasshouse.attestation.ledger import ReleaseLedger
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.owner.keyfiles import read_owner, read_public, server_key, write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.providers.credentials import runpod_key
from pytest_glasshouse.report.seal import KEY_VARIABLE, report_key
from pytest_glasshouse.run.resume import read as resumed
from pytest_glasshouse.wire.own_file import check_own, read_own
from tests.ordinary_user import ordinary_user

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs another user's files")


@pytest.fixture(name="secret")
def a_secret(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "er" / "key"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"secret")
    path.chmod(0o600)
    return path


def test_what_only_this_user_can_change_is_read(secret: Path) -> None:
    assert read_own(secret, what="key", limit=100) == b"secret"
    secret.chmod(0o400)
    assert read_own(secret, what="key", limit=100) == b"secret"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o601, 0o644, 0o660])
def test_a_secret_that_others_may_use_is_refused(secret: Path, mode: int) -> None:
    secret.chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod"):
        read_own(secret, what="key", limit=100)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o622])
def test_a_public_file_may_be_readable_and_not_writable_by_others(secret: Path, mode: int) -> None:
    secret.chmod(0o644)
    assert read_own(secret, what="pub", limit=100, secret=False) == b"secret"
    secret.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"pub: {re.escape(str(secret))} may be written to by others.*chmod go-w"):
        read_own(secret, what="pub", limit=100, secret=False)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o720])
@pytest.mark.parametrize("above", [0, 1])
def test_a_directory_on_the_way_that_others_may_write_to_is_refused(secret: Path, mode: int, above: int) -> None:
    """A user who may write there may replace the key."""
    folder = secret.parents[above]
    folder.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"chmod go-w {re.escape(str(folder))}$"):
        read_own(secret, what="key", limit=100)


def test_a_sticky_directory_is_no_fault(secret: Path) -> None:
    secret.parent.chmod(0o1777)
    assert read_own(secret, what="key", limit=100) == b"secret"


def test_a_link_is_accepted_if_its_directory_and_its_target_are(secret: Path, tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    shared.mkdir()
    own.mkdir()
    for link, target in ((own / "good", secret), (own / "relative", Path("../deep/er/key")), (own / "again", own / "good")):
        link.symlink_to(target)
        assert read_own(link, what="key", limit=100) == b"secret"
    (shared / "link").symlink_to(secret)
    (shared / "key").write_bytes(b"secret")
    (shared / "key").chmod(0o600)
    (own / "elsewhere").symlink_to(shared / "key")
    (own / "folder").symlink_to(shared)
    (own / "round").symlink_to(own / "round")
    shared.chmod(0o777)
    for path in (shared / "link", own / "elsewhere", own / "folder" / "key", own / ".." / "shared" / "key"):
        with pytest.raises(ConfigurationError, match=rf"chmod go-w {re.escape(str(shared))}$"):
            read_own(path, what="key", limit=100)
    for path in (own / "round", own / "none"):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            read_own(path, what="key", limit=100)


@ROOT
def test_a_file_of_another_user_is_refused(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(secret, 54321, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        read_own(secret, what="key", limit=100)
    monkeypatch.setenv("SUDO_UID", "54321")
    assert read_own(secret, what="key", limit=100) == b"secret"
    monkeypatch.setenv("SUDO_UID", "1")
    os.chown(secret, 0, -1)
    os.chown(secret.parent, 54321, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        read_own(secret, what="key", limit=100)


@ROOT
def test_another_users_link_in_a_sticky_directory_is_refused(secret: Path, tmp_path: Path) -> None:
    tmp_path.joinpath("sticky").mkdir()
    tmp_path.joinpath("sticky").chmod(0o1777)
    link = tmp_path / "sticky" / "link"
    link.symlink_to(secret)
    os.lchown(link, 54321, -1)
    with pytest.raises(ConfigurationError, match="another user"):
        read_own(link, what="key", limit=100)


def test_a_path_that_is_no_file_or_too_large_is_an_error_of_one_line(secret: Path) -> None:
    os.mkfifo(secret.with_name("fifo"), 0o600)
    for path in (secret.parent, secret.with_name("fifo")):
        with pytest.raises(ConfigurationError, match=r"regular file|used by others"):
            read_own(path, what="key", limit=100)
    with pytest.raises(ConfigurationError, match="more than 3 bytes"):
        read_own(secret, what="key", limit=3)


def test_a_file_of_another_account_is_refused_with_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the tests above, where no root is to give files away: this process takes itself for another user."""
    with ordinary_user() as folder:
        (folder / "key").write_bytes(b"secret")
        (folder / "key").chmod(0o600)
        assert read_own(folder / "key", what="key", limit=100) == b"secret"
        uid = os.geteuid()
        with monkeypatch.context() as other:
            other.setattr(os, "geteuid", lambda: uid + 1)
            with pytest.raises(ConfigurationError, match=rf"belongs to another user \(uid {uid}\).*chown {folder}"):
                read_own(folder / "key", what="key", limit=100)


def test_a_file_that_its_owner_may_not_read_is_an_error_of_one_line() -> None:
    with ordinary_user() as folder:
        (folder / "key").write_bytes(b"secret")
        (folder / "key").chmod(0)
        with pytest.raises(ConfigurationError, match=r"^key: .*/key cannot be read \(Permission denied\)$"):
            read_own(folder / "key", what="key", limit=100)


# ---------------------------------------------------------------------------------------- where keys and state are read


def signing(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / "key.pem"
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.chmod(0o600)
    return path, lambda: report_key({KEY_VARIABLE: str(path)})


def owner(folder: Path) -> tuple[Path, Callable[[], object]]:
    write_owner(folder / "owner.key", Owner.generate())
    return folder / "owner.key", lambda: read_owner(folder / "owner.key", what="--owner")


def public(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = write_owner(folder / "owner.key", Owner.generate())
    return path, lambda: read_public(str(path), what="GLASSHOUSE_SERVER_KEY")


def state(folder: Path) -> tuple[Path, Callable[[], object]]:
    server_key(folder / "state")
    return folder / "state", lambda: server_key(folder / "state")


def ledger(folder: Path) -> tuple[Path, Callable[[], object]]:
    ReleaseLedger(folder / "ledger.sqlite3").close()
    return folder / "ledger.sqlite3", lambda: ReleaseLedger(folder / "ledger.sqlite3").close()


def provider(folder: Path) -> tuple[Path, Callable[[], object]]:
    path = folder / ".runpod" / "config.toml"
    path.parent.mkdir()
    path.write_text('[default]\napi_key = "k"\n')
    path.chmod(0o600)
    return path, lambda: runpod_key({"HOME": str(folder)})


@pytest.mark.parametrize("place", [signing, owner, public, state, ledger, provider])
def test_every_reader_of_a_key_or_state_checks_permissions(
    place: Callable[[Path], tuple[Path, Callable[[], object]]], tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    path, take = place(folder)
    take()
    mode = path.stat().st_mode & 0o777
    path.chmod(mode | 0o020)
    with pytest.raises(ConfigurationError, match="may be written to by others"):
        take()
    path.chmod(mode)
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match=rf"chmod go-w {re.escape(str(folder))}"):
        take()
    folder.chmod(0o700)
    take()


def test_a_run_directory_that_others_may_write_to_is_not_resumed(tmp_path: Path) -> None:
    """Its rows would be signed for again."""
    run = tmp_path / "id.run"
    run.mkdir(mode=0o700)
    for name in ("plan.json", "rows.jsonl"):
        (run / name).write_text("{}")
        (run / name).chmod(0o600)
    for place in (run, run / "rows.jsonl", run / "plan.json"):
        mode = place.stat().st_mode & 0o777
        place.chmod(mode | 0o022)
        with pytest.raises(ConfigurationError, match=rf"--glasshouse-resume id: {re.escape(str(place))}: expected"):
            resumed("id", tmp_path, environ={})
        place.chmod(mode)


def test_a_message_is_one_printable_line(tmp_path: Path) -> None:
    folder = tmp_path / "new\nline"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError) as caught:
        check_own(folder, what="--state")
    assert len(str(caught.value).splitlines()) == 1
