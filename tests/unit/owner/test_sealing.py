"""A sealed package hides its parts, and its manifest holds nothing about the canary but its size."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.opener import open_package
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest, seal, sealing
from pytest_glasshouse.wire.canonical import canonical, sha256_hex
from pytest_glasshouse.wire.part_file import PartFile

OWNER = Owner.generate()
PARTS = {"config": b'{"layers":2}', "train": b"every good boy does fine " * 100}


def a_package(*, confidential: bool = False) -> SealedPackage:
    return seal(PARTS, owner=OWNER, run="r", round_nonce="n", workload={"name": "mlp"}, confidential=confidential, segment=256)


def test_the_package_holds_no_plaintext() -> None:
    sealed = a_package()
    for data in (*PARTS.values(), sealed.canary.reveal()):
        for at in range(0, len(data) - 11, 12):
            assert data[at : at + 12] not in sealed.package


def test_the_manifest_names_header_parts_and_workload() -> None:
    sealed = a_package(confidential=True)
    claims = read_manifest(sealed.manifest, owner=OWNER.public)
    assert claims["header_sha256"] == sealed.header_sha256
    assert claims["parts"] == [
        {"name": "config", "size": 12}, {"name": "train", "size": 2500}, {"name": "canary", "size": 256},
    ]  # fmt: skip
    assert (claims["workload"], claims["confidential"]) == ({"name": "mlp"}, True)
    assert sealed.manifest_sha256 == sha256_hex(sealed.manifest.encode())


def test_nothing_public_holds_the_canary_or_its_digest() -> None:
    """Not even its digest: nothing compares it, and a search for it must not find a description of it."""
    sealed = a_package()
    public = canonical(read_manifest(sealed.manifest, owner=OWNER.public)) + sealed.package
    assert sha256_hex(sealed.canary.reveal()).encode() not in public


def test_two_seals_of_the_same_parts_share_nothing() -> None:
    one, two = a_package(), a_package()
    assert one.data_key != two.data_key
    assert one.canary != two.canary
    assert one.header_sha256 != two.header_sha256


def test_a_part_named_canary_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="canary"):
        seal({"canary": b"x"}, owner=OWNER, run="r", round_nonce="n", workload={})


def test_a_manifest_of_another_owner_is_refused() -> None:
    with pytest.raises(IntegrityError) as caught:
        read_manifest(a_package().manifest, owner=Owner.generate().public)
    assert caught.value.reason == "jws-header"


def test_a_sealed_package_is_not_shown_with_its_key() -> None:
    sealed = a_package()
    assert repr(sealed.data_key.reveal()) not in repr(sealed)
    assert repr(sealed.canary.reveal()) not in repr(sealed)


def test_a_manifest_in_another_owners_name_is_refused() -> None:
    """The owner's signature under another's name: a reader of `iss` would take it for the other's."""
    claims = read_manifest(a_package().manifest, owner=OWNER.public)
    with pytest.raises(IntegrityError, match="manifest: iss"):
        read_manifest(OWNER.sign_manifest({**claims, "iss": Owner.generate().kid}), owner=OWNER.public)


def test_a_file_is_sealed_as_its_bytes_are_and_never_held_whole(tmp_path: Path) -> None:
    """Weights of many gigabytes pass through a few segments of memory."""
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(range(256)) * (1 << 14))
    tracemalloc.start()
    sealed = sealing(
        {"config": b"{}", "weights": PartFile.of(weights)}, owner=OWNER, run="r", round_nonce="n", workload={}, segment=1 << 14
    )
    size = sum(len(piece) for piece in sealed.pieces())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == sealed.size
    assert peak < weights.stat().st_size / 4

    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    package = b"".join(bytes(piece) for piece in sealed.pieces())
    opened = open_package(package, key, read_manifest(sealed.manifest, owner=OWNER.public))
    assert opened.parts["weights"] == weights.read_bytes()
    opened.close()


def test_a_file_that_changed_since_it_was_listed_is_not_sealed(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(100))
    sealed = sealing({"weights": PartFile.of(weights)}, owner=OWNER, run="r", round_nonce="n", workload={})
    weights.write_bytes(bytes(99))
    with pytest.raises(ConfigurationError, match="weights: was changed"):
        list(sealed.pieces())
