"""A manifest counts for what its maker signed, to the last byte, and becomes the references of a policy."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from pytest_glasshouse.attestation.nvidia_rim import Rim, read_rim, references
from pytest_glasshouse.errors import RefusedError
from tests.unit.attestation.signed_manifests import HASHES, NOW, Maker, Manifest, make_maker

MAKER = make_maker()
DRIVER, VBIOS = Manifest(), Manifest(version="96.00.74.00.1a", active={2: [HASHES[2]]})


def read(data: bytes, *, maker: Maker = MAKER, now: int = NOW) -> Rim:
    return read_rim(data, roots=(maker.root,), now=now)


def refused(data: bytes, *, maker: Maker = MAKER, now: int = NOW) -> str:
    with pytest.raises(RefusedError) as caught:
        read(data, maker=maker, now=now)
    return caught.value.reason


def test_measurements_are_numbered_as_devices_number_them_and_only_active_ones_count() -> None:
    rim = read(DRIVER.signed(MAKER))
    assert (rim.kind, rim.version, rim.chip) == ("driver", "580.95.05", "GH100")
    assert rim.measurements == {2: (HASHES[1],), 5: (HASHES[4], HASHES[5])}


def test_driver_and_vbios_make_the_references_of_a_policy() -> None:
    made = references([read(DRIVER.signed(MAKER)), read(VBIOS.signed(MAKER))], device_root="00" * 32)
    assert (made.drivers, made.vbios, made.models, made.roots) == (("580.95.05",), ("96.00.74.00.1A",), ("GH100",), ("00" * 32,))
    assert made.measurements == {"2": (HASHES[1],), "3": (HASHES[2],), "5": (HASHES[4], HASHES[5])}


@pytest.mark.parametrize(
    ("rims", "text"),
    [
        ((DRIVER,), "a driver's manifest and a VBIOS's are needed"),
        ((DRIVER, DRIVER, VBIOS), "more than one driver"),
        ((DRIVER, Manifest(version="96.00.74.00.1A", active={1: [HASHES[1]]})), "both name 2"),
        ((DRIVER, Manifest(version="96.00.74.00.1A", chip="GB100", active={2: [HASHES[2]]})), "several chips"),
    ],
)
def test_manifests_that_do_not_belong_together_are_refused(rims: tuple[Manifest, ...], text: str) -> None:
    with pytest.raises(RefusedError, match=text):
        references([read(rim.signed(MAKER)) for rim in rims], device_root="00" * 32)


def test_every_bit_of_a_manifest_is_bound() -> None:
    """One bit of every ninth byte; of every byte with SOAK=1."""
    data = DRIVER.signed(MAKER)
    genuine = read(data)
    for at in range(0, len(data), 1 if os.environ.get("SOAK") == "1" else 9):
        changed = data[:at] + bytes((data[at] ^ 1 << at % 7,)) + data[at + 1 :]
        try:
            found = read(changed)
        except RefusedError:
            continue
        # White space between certificates and the like, which says nothing.
        assert found == genuine, at


def _replace(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(old, new, 1)


_HASH = HASHES[1].encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_replace(_HASH, _HASH[::-1]), "rim-digest"),
        (_replace(b'active="False"', b'active="True"'), "rim-digest"),
        (_replace(b"ecdsa-sha384", b"ecdsa-sha256"), "rim-format"),
        (_replace(b"xmldsig#enveloped-signature", b"xmldsig#base64"), "rim-format"),
        (_replace(b'URI=""', b'URI="#part"'), "rim-format"),
        (_replace(b"xml-c14n11", b"xml-exc-c14n"), "rim-format"),
        (_replace(b"<ns0:Payload", b"<!-- --><ns0:Payload"), "rim-format"),
        (_replace(b"<ns0:Payload", b"<?go?><ns0:Payload"), "rim-format"),
        (_replace(b"<SoftwareIdentity", b'<!DOCTYPE a [<!ENTITY b "c">]><SoftwareIdentity'), "rim-format"),
        (_replace(b"<SoftwareIdentity ", b'<SoftwareIdentity xml:lang="en" '), "rim-format"),
        (_replace(b"<ns0:Payload", b"<ns9:Payload"), "rim-format"),
        (lambda data: data[:-5], "rim-format"),
        (lambda _: b"", "rim-format"),
        (lambda data: data + b" " * (1 << 20), "rim-format"),
        (lambda _: b"<a>" * 20, "rim-format"),
        (lambda _: b"<a/>", "rim-format"),
        (_replace(b"<ds:Signature ", b"<ds:Other "), "rim-format"),
        (lambda data: data.replace(b"</ds:Signature>", b"</ds:Signature>text"), "rim-format"),
    ],
    ids=(
        "hash",
        "active",
        "method",
        "transform",
        "part",
        "canonical-form",
        "comment",
        "instruction",
        "document-type",
        "xml-attribute",
        "unknown-prefix",
        "cut",
        "empty",
        "huge",
        "deep",
        "nothing",
        "no-signature",
        "text-behind",
    ),
)
def test_a_changed_manifest_is_refused_for_its_reason(change: Callable[[bytes], bytes], reason: str) -> None:
    assert refused(change(DRIVER.signed(MAKER))) == reason


def test_two_signatures_are_refused() -> None:
    """Which of them is verified, and which one somebody else reads, must not be a question."""
    data = DRIVER.signed(MAKER)
    signature = data[data.index(b"<ds:Signature ") : data.index(b"</SoftwareIdentity>")]
    assert refused(data.replace(signature, signature * 2)) == "rim-format"


def test_a_manifest_of_another_maker_is_refused() -> None:
    assert refused(DRIVER.signed(make_maker())) == "chain-root"


def test_a_manifest_is_good_for_its_certificates_time() -> None:
    data = DRIVER.signed(MAKER)
    assert refused(data, now=NOW + 366 * 86_400) == "chain-time"


def test_a_manifest_signed_by_a_key_of_another_kind_is_refused() -> None:
    maker = make_maker(kind="P-256")
    assert refused(DRIVER.signed(maker), maker=maker) == "chain-key"


@pytest.mark.parametrize(
    "manifest",
    [
        Manifest(version="of tomorrow"),
        Manifest(chip="no chip"),
        Manifest(active={}, inactive=(0,)),
        Manifest(active={255: [HASHES[1]]}),
        Manifest(active={0: [HASHES[1]]}),
        Manifest(active={1: ["00"]}),
        Manifest(active={1: []}),
    ],
)
def test_a_signed_manifest_that_says_something_else_is_refused(manifest: Manifest) -> None:
    assert refused(manifest.signed(MAKER)) == "rim-format"
