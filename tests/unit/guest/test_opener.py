"""Opening a package: into one arena, wiped when anything fails. (Changed packages are in the tamper suite.)"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest import opener
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.guest.ring import open_package_to_device, ring_for_package
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest, seal
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import Json, b64u
from pytest_glasshouse.wire.evidence import SUITE, release_info

OWNER = Owner.generate()
PARTS = {"config": b'{"layers":2}', "empty": b"", "train": b"every good boy does fine " * 100}
NONCE = "00" * 32


@pytest.fixture(name="sealed")
def a_sealed_package() -> SealedPackage:
    return seal(PARTS, owner=OWNER, run="r", round_nonce=NONCE, workload={"name": "mlp"}, segment=256)


@pytest.fixture(name="arenas")
def watched_arenas(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Arena]]:
    """Every arena the opener makes, so that a test can inspect one that was never returned."""
    made: list[Arena] = []

    class Watched(Arena):
        def __init__(self, size: int) -> None:
            super().__init__(size)
            made.append(self)

    monkeypatch.setattr(opener, "Arena", Watched)
    yield made
    for arena in made:
        arena.close()


def key_of(sealed: SealedPackage) -> LockedSecret:
    return LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))


def manifest_of(sealed: SealedPackage) -> dict[str, Json]:
    return read_manifest(sealed.manifest, owner=OWNER.public)


def test_a_package_opens_to_its_parts_and_a_canary(sealed: SealedPackage) -> None:
    opened = opener.open_package(sealed.package, key_of(sealed), manifest_of(sealed))
    assert {name: bytes(view) for name, view in opened.parts.items()} == {**PARTS, "canary": sealed.canary.reveal()}
    opened.close()


def test_parts_begin_where_any_tensor_can_lie(sealed: SealedPackage, arenas: list[Arena]) -> None:
    opened = opener.open_package(sealed.package, key_of(sealed), manifest_of(sealed))
    whole = bytes(arenas[0].view)
    assert whole.find(PARTS["config"]) == 0
    assert whole.find(PARTS["train"]) % opener.ALIGNMENT == 0
    opened.close()


def test_closing_wipes_everything(sealed: SealedPackage, arenas: list[Arena]) -> None:
    opened = opener.open_package(sealed.package, key_of(sealed), manifest_of(sealed))
    whole = arenas[0].view[:]
    opened.close()
    assert bytes(whole) == bytes(len(arenas[0]))


@pytest.mark.parametrize("at", [-1, -300, -2000])
def test_no_plaintext_is_left_when_a_tag_is_wrong(sealed: SealedPackage, arenas: list[Arena], at: int) -> None:
    """The cipher writes before it verifies: its output and every earlier part must read as zeros."""
    package = bytearray(sealed.package)
    package[at] ^= 1
    with pytest.raises(IntegrityError) as caught:
        opener.open_package(bytes(package), key_of(sealed), manifest_of(sealed))
    assert caught.value.reason == "pkg-integrity"
    assert [bytes(arena.view) for arena in arenas] == [bytes(len(arena)) for arena in arenas]


def test_no_plaintext_is_left_when_opening_is_interrupted(
    sealed: SealedPackage, arenas: list[Arena], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only our own errors: an interrupt must leave nothing, too."""
    genuine = floe.decrypt_into

    def interrupted(*args: Any, **options: Any) -> None:
        genuine(*args, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(floe, "decrypt_into", interrupted)
    with pytest.raises(KeyboardInterrupt):
        opener.open_package(sealed.package, key_of(sealed), manifest_of(sealed))
    assert [bytes(arena.view) for arena in arenas] == [bytes(len(arena)) for arena in arenas]


def test_an_unsealed_key_is_the_one_that_was_sealed() -> None:
    private, key = X25519PrivateKey.generate(), bytes(range(32))
    sealed = b64u(SUITE.encrypt(key, private.public_key(), info=release_info("result", "manifest")))
    secret = opener.unseal_key(sealed, result_token="result", manifest_sha256="manifest", private=private)
    assert bytes(secret.view) == key


def test_a_sealed_key_of_another_length_is_refused() -> None:
    private = X25519PrivateKey.generate()
    sealed = b64u(SUITE.encrypt(bytes(16), private.public_key(), info=release_info("result", "manifest")))
    with pytest.raises(IntegrityError) as caught:
        opener.unseal_key(sealed, result_token="result", manifest_sha256="manifest", private=private)
    assert caught.value.reason == "sealed"


def test_an_adapter_leaves_sealed_to_the_owner_for_this_session(sealed: SealedPackage) -> None:
    out = opener.seal_adapter(b"adapter", manifest=manifest_of(sealed), manifest_sha256=sealed.manifest_sha256, nonce=NONCE)
    assert b"adapter" not in out
    assert OWNER.open_adapter(out, manifest_sha256=sealed.manifest_sha256, nonce=NONCE) == b"adapter"
    for owner, nonce in ((OWNER, "01" * 32), (Owner.generate(), NONCE)):
        with pytest.raises(IntegrityError) as caught:
            owner.open_adapter(out, manifest_sha256=sealed.manifest_sha256, nonce=nonce)
        assert caught.value.reason == "adapter"


class Watched:
    """A package in a memory file as a leg has it, and how much of it was left whenever a segment had been opened."""

    def __init__(self, package: bytes) -> None:
        self.fd = os.memfd_create("package")
        with os.fdopen(os.dup(self.fd), "wb") as out:
            out.write(package)
        self.whole = self.left
        self.seen: list[tuple[int, int]] = []
        self._opened, self._release = 0, opener.releasing(self.fd)

    @property
    def left(self) -> int:
        """Bytes of memory that the file has."""
        return os.fstat(self.fd).st_blocks * 512

    def release(self, start: int, end: int) -> None:
        self._release(start, end)
        self._opened += end - start
        self.seen.append((self._opened, self.left))


@pytest.mark.parametrize("through", ["arena", pytest.param("ring", marks=pytest.mark.torch)])
def test_ciphertext_and_plaintext_never_fill_memory_together(through: str) -> None:
    """A sealed model is opened in the memory it needs once, not twice: what is decrypted is freed at once."""
    segment = 1 << 16
    parts = {"config": b"{}", "weights.0": os.urandom(3 << 20), "weights.1": os.urandom(1 << 20)}
    sealed = seal(parts, owner=OWNER, run="r", round_nonce="n", workload={}, segment=segment)
    watched = Watched(sealed.package)
    key, package = key_of(sealed), opener.map_file(watched.fd)
    if through == "arena":
        opened: Any = opener.open_package(package, key, manifest_of(sealed), release=watched.release)
    else:
        ring = ring_for_package(package, TorchMemory("cpu"), limit=4 * segment)
        opened = open_package_to_device(package, key, manifest_of(sealed), ring, release=watched.release)
    assert {name: bytes(opened.parts[name]) for name in parts} == parts
    assert watched.seen
    spare = 2 * segment + len(watched.seen) * 2 * opener.ALIGNMENT
    assert all(done + left <= watched.whole + spare for done, left in watched.seen)
    assert watched.left < watched.whole / 10
    with opener.derived_keys(package, key, opened.header) as derived:
        assert all(any(each) for each in derived), "what the keys are derived from is still there"
    opened.close()
    package.release()
    os.close(watched.fd)


def test_memory_that_cannot_be_freed_is_no_reason_to_fail(tmp_path: Path, sealed: SealedPackage) -> None:
    """A file system without holes: the package is opened all the same."""
    (tmp_path / "package").write_bytes(sealed.package)
    fd = os.open(tmp_path / "package", os.O_RDONLY)
    opened = opener.open_package(sealed.package, key_of(sealed), manifest_of(sealed), release=opener.releasing(fd))
    assert bytes(opened.parts["config"]) == PARTS["config"]
    assert (tmp_path / "package").read_bytes() == sealed.package
    opened.close()
    os.close(fd)
