"""Keys that people have already, of ssh-keygen, are keys here."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.owner.keyfiles import read_public
from pytest_glasshouse.report.seal import report_key
from pytest_glasshouse.wire.tokens import public_text

KEY = Ed25519PrivateKey.generate()
LINE = KEY.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
PRIVATE = KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


@pytest.mark.parametrize(
    ("text", "witness"),
    [(f"{LINE} me@host\n", False), (f"# lab\nwitness {LINE}\n", True), (LINE, False)],
    ids=["with a comment", "witness", "bare"],
)
def test_public_key_of_ssh_is_trusted(text: str, witness: bool, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(text, "utf-8")
    trust = Trust.read([tmp_path / "key.pub"])

    assert trust.keys == {public_text(KEY.public_key())}
    assert bool(trust.witnesses) is witness


def test_public_key_of_ssh_is_a_pinned_one(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(f"{LINE} me@host\n", "utf-8")
    for given in (str(tmp_path / "key.pub"), LINE):
        assert public_text(read_public(given, what="--server-key")) == public_text(KEY.public_key())


@pytest.mark.parametrize(
    "text",
    ["ssh-ed25519", "ssh-ed25519 AAAA", "ssh-rsa AAAAB3NzaC1yc2E me", f"witness {LINE[:40]}"],
    ids=["no key", "too short", "another algorithm", "cut off"],
)
def test_line_that_is_no_key_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(text, "utf-8")
    with pytest.raises(ConfigurationError, match=r"--trust .*expected"):
        Trust.read([tmp_path / "key.pub"])


def test_key_of_another_curve_is_refused(tmp_path: Path) -> None:
    line = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    (tmp_path / "key.pub").write_text(line, "utf-8")
    with pytest.raises(ConfigurationError):
        Trust.read([tmp_path / "key.pub"])


def test_report_is_signed_with_a_key_of_ssh(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(PRIVATE)
    path.chmod(0o600)

    assert public_text(report_key({"GLASSHOUSE_SIGNING_KEY": str(path)}).public_key()) == public_text(KEY.public_key())


def test_encrypted_key_of_ssh_is_refused_without_its_content(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(
        KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"x"))
        if _bcrypt()
        else b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="expected an unencrypted private key"):
        report_key({"GLASSHOUSE_SIGNING_KEY": str(path)})


def test_keys_that_ssh_keygen_makes_are_read(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        missing = "no ssh-keygen here: apt-get install openssh-client"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")], check=True)
    public = public_text(report_key({"GLASSHOUSE_SIGNING_KEY": str(tmp_path / "id")}).public_key())

    assert Trust.read([tmp_path / "id.pub"]).keys == {public}


def _bcrypt() -> bool:
    try:
        KEY.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(b"x"))
    except Exception:  # noqa: BLE001  (the library bcrypt is not installed)
        return False
    return True
