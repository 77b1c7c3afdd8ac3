"""Recorded evidence is read to the last byte, and nothing in it can be changed. (Each refusal's reason is in the tamper suite.)"""

from __future__ import annotations

import dataclasses

import pytest
from cryptography import x509

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.certificates import public_bytes, read_chain
from pytest_glasshouse.errors import RefusedError
from pytest_glasshouse.tamper.fake_certificates import value
from pytest_glasshouse.tamper.fake_gpu import BLOCKS, DRIVER, FWID, VBIOS, SpdmReport, composite, genuine, make_device
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.canonical import sha256_hex

NOW = 1_800_000_000
NONCE = bytes(range(32))
DEVICE = genuine(NOW)
EVIDENCE = DEVICE.sign(bytes(SpdmReport(nonce=NONCE)))
ROOT = sha256_hex(DEVICE.chain[-1])


def chain(pem: str, root: str, now: int) -> tuple[bytes, ...]:
    return tuple(public_bytes(each) for each in read_chain(pem, roots=(root,), now=now))


def check(evidence: bytes) -> None:
    measured = spdm.read_evidence(evidence)
    leaf, *_ = read_chain(DEVICE.pem(), roots=(ROOT,), now=NOW)
    spdm.check_signature(measured, leaf)
    assert spdm.check_firmware(measured, leaf, required=True)


def test_the_layout_is_the_recorded_one() -> None:
    """The first bytes of every recorded evidence of that family: request, response, number of blocks, first block's head."""
    assert EVIDENCE[:4].hex() == "11e001ff"
    assert EVIDENCE[36:45].hex() == "00" + "11600000" + "03" + "a50000"
    assert EVIDENCE[45:52].hex() == "01013300013000"


def test_measurements_and_versions_are_read_from_the_evidence() -> None:
    measured = spdm.read_evidence(EVIDENCE)
    assert (measured.nonce, measured.blocks, measured.driver, measured.vbios) == (NONCE, BLOCKS, DRIVER, VBIOS)
    assert measured.opaque[spdm.FWID] == FWID
    check(EVIDENCE)


def test_a_device_that_names_no_versions_has_none() -> None:
    measured = spdm.read_evidence(DEVICE.sign(bytes(dataclasses.replace(SpdmReport(nonce=NONCE), opaque=()))))
    assert (measured.driver, measured.vbios) == ("", "")


def test_every_bit_is_bound() -> None:
    """One bit anywhere, request and signature too."""
    for at in range(len(EVIDENCE)):
        changed = bytearray(EVIDENCE)
        changed[at] ^= 1 << (at % 8)
        with pytest.raises(RefusedError):
            check(bytes(changed))


def test_every_truncation_and_extension_is_refused() -> None:
    for length in range(len(EVIDENCE)):
        with pytest.raises(RefusedError):
            spdm.read_evidence(EVIDENCE[:length])
    with pytest.raises(RefusedError):
        spdm.read_evidence(EVIDENCE + b"\0")


@pytest.mark.parametrize(("days", "good"), [(-366, False), (-365, True), (365, True), (366, False)])
def test_a_chain_is_good_for_its_time_only(days: int, good: bool) -> None:
    now = NOW + days * 86_400
    if good:
        assert chain(DEVICE.pem(), ROOT, now) == DEVICE.chain
    else:
        with pytest.raises(RefusedError) as caught:
            read_chain(DEVICE.pem(), roots=(ROOT,), now=now)
        assert caught.value.reason == "chain-time"


def test_no_pinned_root_is_no_root() -> None:
    with pytest.raises(RefusedError) as caught:
        read_chain(DEVICE.pem(), roots=(), now=NOW)
    assert caught.value.reason == "chain-root"


def test_a_path_length_that_suffices_is_enough() -> None:
    device = make_device(NOW, "root", path=2)
    assert chain(device.pem(), sha256_hex(device.chain[-1]), NOW) == device.chain


@pytest.mark.parametrize(
    "names",
    [
        [x509.DNSName("gpu.example")],
        [x509.OtherName(x509.ObjectIdentifier("1.2.3"), value(b"NVIDIA:GH100:1", tag=der.UTF8_STRING))],
    ],
    ids=["a-host-s", "of-another-kind"],
)
def test_alternative_names_of_other_kinds_name_no_device(names: list[x509.GeneralName]) -> None:
    """The chip is unknown then, and the device is told from others by the number of its certificate."""
    extension = (x509.SubjectAlternativeName.oid, x509.SubjectAlternativeName(names).public_bytes())
    device = make_device(NOW, "leaf", extensions=(composite(), extension))
    leaf, *_ = read_chain(device.pem(), roots=(sha256_hex(device.chain[-1]),), now=NOW, known_critical=spdm.FWID_EXTENSIONS)
    assert spdm.device_info(leaf) == ("", f"{leaf.serial_number:X}")
