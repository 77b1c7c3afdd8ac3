"""Keys on disk: for their reader only, never written over, recognised again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.owner.keyfiles import read_owner, read_public, server_key, write_owner
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.server_keys import TYP_KEYS, published_claims, read_published
from pytest_glasshouse.wire.evidence import hpke_text
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import public_text, sign, thumbprint

SPKI = PublicFormat.SubjectPublicKeyInfo


def test_an_owner_is_read_back(tmp_path: Path) -> None:
    owner = Owner.generate()
    public = write_owner(tmp_path / "new" / "owner.key", owner)
    assert read_owner(tmp_path / "new" / "owner.key", what="x").kid == owner.kid
    assert public_text(read_public(str(public), what="x")) == owner.public_text
    modes = [stat.S_IMODE(path.stat().st_mode) for path in sorted(public.parent.iterdir())]
    assert modes[0] == 0o600
    assert len(modes) == 2


def test_a_key_is_not_written_over(tmp_path: Path) -> None:
    write_owner(tmp_path / "owner.key", Owner.generate())
    before = (tmp_path / "owner.key").read_bytes()
    with pytest.raises(ConfigurationError, match="not written over"):
        write_owner(tmp_path / "owner.key", Owner.generate())
    assert (tmp_path / "owner.key").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_owner(tmp_path / "owner.key", Owner.generate())
    (tmp_path / "owner.key").chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_owner(tmp_path / "owner.key", what="x")


@pytest.mark.parametrize("content", [b"", b"{}", b"-----BEGIN PRIVATE KEY-----", b"\xff"])
def test_a_file_that_is_no_owner_is_an_error_of_one_line_without_its_content(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "owner.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="holds no owner's key"):
        read_owner(path, what="x")


def test_a_server_keeps_its_key(tmp_path: Path) -> None:
    first, again = server_key(tmp_path / "state"), server_key(tmp_path / "state")
    assert (
        public_text(first.public_key())
        == public_text(again.public_key())
        == (tmp_path / "state" / "server.pub").read_text().strip()
    )
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", ["cut", "other", "open"])
def test_a_damaged_server_key_is_refused_and_not_replaced(tmp_path: Path, damage: str) -> None:
    """A new key in its place would be another server, and no client would notice."""
    server_key(tmp_path)
    path = tmp_path / "server.key"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:40])
    elif damage == "other":
        other = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    else:
        path.chmod(0o644)
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=r"server\.key"):
        server_key(tmp_path)
    assert path.read_bytes() == before


def test_a_public_key_is_text_or_a_file_of_text_or_pem(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate().public_key()
    (tmp_path / "text").write_text(public_text(key) + "\n")
    (tmp_path / "pem").write_bytes(key.public_bytes(Encoding.PEM, SPKI))
    for given in (public_text(key), str(tmp_path / "text"), str(tmp_path / "pem")):
        assert public_text(read_public(given, what="x")) == public_text(key)


def test_a_private_key_is_not_taken_for_a_public_one(tmp_path: Path) -> None:
    write_owner(tmp_path / "owner.key", Owner.generate())
    server_key(tmp_path)
    for name in ("owner.key", "server.key"):
        with pytest.raises(ConfigurationError, match="that is a private key"):
            read_public(str(tmp_path / name), what="--owner")


def test_pem_of_another_kind_of_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, SPKI))
    with pytest.raises(ConfigurationError, match="another kind of key"):
        read_public(str(tmp_path / "pem"), what="x")


def test_a_kept_data_key_is_for_its_owner_and_package() -> None:
    owner, key = Owner.generate(), Secret(bytes(range(32)))
    sealed = owner.seal_data_key(key, manifest_sha256="m")
    assert key.reveal() not in sealed
    assert owner.open_data_key(sealed, manifest_sha256="m") == key
    for who, package in ((owner, "other"), (Owner.generate(), "m")):
        with pytest.raises(IntegrityError):
            who.open_data_key(sealed, manifest_sha256=package)


def test_published_keys_are_accepted_from_the_pinned_server_only() -> None:
    ours, theirs, owner = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), Owner.generate()
    claims = published_claims(server=ours.public_key(), owner=owner.public, hpke=public_text(theirs.public_key()), now=1)
    token = sign(claims, key=ours, typ="glasshouse-keys+jwt")
    assert read_published({"keys": token}, server=ours.public_key()).owner == owner.kid
    forged = sign(claims, key=theirs, typ="glasshouse-keys+jwt")
    other_kind = sign(claims, key=ours, typ="ear+jwt")
    for answer in ({"keys": forged}, {"keys": other_kind}, {"keys": 1}, {}):
        with pytest.raises(IntegrityError):
            read_published(answer, server=ours.public_key())


def test_published_keys_in_another_servers_name_are_refused() -> None:
    """Signed by the pinned key, in another server's name."""
    server, other, owner = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate(), Owner.generate()
    right = published_claims(server=server.public_key(), owner=owner.public, hpke=hpke_text(owner.hpke_public), now=1)
    read_published({"keys": sign(right, key=server, typ=TYP_KEYS)}, server=server.public_key())
    for changes in ({"iss": thumbprint(other.public_key())}, {"server": public_text(other.public_key())}):
        with pytest.raises(IntegrityError, match="jwt-claims"):
            read_published({"keys": sign({**right, **changes}, key=server, typ=TYP_KEYS)}, server=server.public_key())


def test_state_that_cannot_be_written_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"--state .*cannot be made"):
        server_key(tmp_path / "file" / "state")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        write_owner(tmp_path / "file" / "owner.key", Owner.generate())


def test_a_public_key_file_that_is_no_text_is_no_key(tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="saw none"):
        read_public(str(tmp_path / "key.pub"), what="x")
