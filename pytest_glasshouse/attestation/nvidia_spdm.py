"""Reads and checks NVIDIA's evidence: SPDM measurements, their signature, and what the device's certificate says (DSP0274, 1.1).

Knows byte forms and signatures; `attestation.certificates` reads the chain. Refuses to know policies, and to skip any byte it
does not understand.

    request   11 e0 | 01 signature asked for | ff all measurements | nonce 32 | slot
    response  11 60 | param 1 | slot | blocks u8 | record length u24 | record | nonce 32 | opaque length u16 | opaque
    block     index u8 | 01 DMTF | size u16 = 51 | type u8 | size u16 = 48 | SHA-384        opaque  type u16 | size u16 | data
    signature ECDSA P-384 over SHA-384 of all of it: r | s, 48 bytes each                   every number little-endian
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from pytest_glasshouse.attestation.certificates import certificate_errors
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.hardware import NONCE_BYTES

VERSION, GET_MEASUREMENTS, MEASUREMENTS = 0x11, 0xE0, 0x60
SIGNATURE_ASKED, ALL_MEASUREMENTS = 0x01, 0xFF
REQUEST = struct.Struct(f"<4B{NONCE_BYTES}sB")
RESPONSE = struct.Struct("<5B3s")
BLOCK = struct.Struct("<BBHBH")
FIELD = struct.Struct("<HH")
DIGEST_BYTES, SIGNATURE_BYTES = 48, 96
DMTF = 1
#: The opaque fields that are checked.
DRIVER, VBIOS, VIDEO_DECODER, FWID, PROTECTED_PCIE, FEATURES = 3, 6, 11, 20, 21, 36
#: What the fields 11 and 21 hold.
ON, OFF = b"\xaa", b"\x55"
#: The modes of field 36. In protected-PCIe mode the switches between the GPUs are trusted too, and they attest for themselves.
SINGLE, MULTI, PPCIE = "single", "multi", "protected-pcie"
_MODES = {0: SINGLE, 1: MULTI, 2: PPCIE}
#: TCG DICE: extensions with the firmware that a device's key was derived for.
COMPOSITE_DEVICE = x509.ObjectIdentifier("2.23.133.5.4.1")
TCB_INFO = x509.ObjectIdentifier("2.23.133.5.4.1.1")
FWID_EXTENSIONS = (COMPOSITE_DEVICE, TCB_INFO)
SHA384_OID = "2.16.840.1.101.3.4.2.2"
#: DMTF: the name `maker:chip:number` among a certificate's alternative names.
DEVICE_INFO = x509.ObjectIdentifier("1.3.6.1.4.1.412.274.1")
#: The measurement that only counts where the video decoder is on, as NVIDIA's verifiers have it.
VIDEO_DECODER_BLOCK = 36
#: The largest evidence that is looked at: 255 blocks, and as much again.
EVIDENCE_LIMIT = 32_768

_BLOCK_PAYLOAD = 3 + DIGEST_BYTES
_VBIOS_BYTES = 8
_FWIDS = 0xA6
_NAMED = re.compile(r"[0-9A-Za-z]{2,64}")


@dataclass(frozen=True, kw_only=True)
class SpdmMeasurements:
    """A device's measurements. `signed` is everything the signature covers."""

    nonce: bytes
    blocks: Mapping[int, bytes]
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes

    @property
    def driver(self) -> str:
        """The driver's version, "" where the device reports none."""
        return self.opaque.get(DRIVER, b"").rstrip(b"\0").decode("ascii", "replace")

    @property
    def vbios(self) -> str:
        """The firmware's version in NVIDIA's notation, "" where the device reports none."""
        raw = self.opaque.get(VBIOS, b"")
        return ".".join(f"{raw[at]:02X}" for at in (3, 2, 1, 0, 4)) if len(raw) == _VBIOS_BYTES else ""

    @property
    def mode(self) -> str:
        """How the GPU is passed to the machine, "" where it says so in an unknown way. Older drivers say nothing: `single`."""
        features, pcie = self.opaque.get(FEATURES, bytes(2)), self.opaque.get(PROTECTED_PCIE, OFF)
        named = _MODES.get(int.from_bytes(features, "little"), "") if len(features) == 2 else ""  # noqa: PLR2004
        if pcie not in (ON, OFF) or not named:
            return ""
        return PPCIE if pcie == ON else named

    def counts(self, index: int) -> bool:
        """Whether the measurement at `index` says anything about this device."""
        return index != VIDEO_DECODER_BLOCK or self.opaque.get(VIDEO_DECODER) != OFF


def read_evidence(evidence: bytes) -> SpdmMeasurements:
    """Request, response and signature, to the last byte. Raises `RefusedError`: `spdm-codes` or `spdm-format`."""
    require(len(evidence) <= EVIDENCE_LIMIT, "spdm-format", "too long")
    require(len(evidence) > REQUEST.size + RESPONSE.size + SIGNATURE_BYTES, "spdm-format", "too short")
    # 1. The request: for all measurements, signed.
    version, code, asked, which, nonce, slot = REQUEST.unpack_from(evidence)
    require((version, code) == (VERSION, GET_MEASUREMENTS), "spdm-codes", "request")
    require((asked, which) == (SIGNATURE_ASKED, ALL_MEASUREMENTS), "spdm-codes", "request asks for less")
    # 2. The response: to that request, from the requested slot.
    version, code, _, answering, count, length = RESPONSE.unpack_from(evidence, REQUEST.size)
    require((version, code) == (VERSION, MEASUREMENTS), "spdm-codes", "response")
    require(answering & 0x0F == slot, "spdm-codes", "slot")
    # 3. Its parts, in order, to the last byte.
    record, rest = _split(evidence[REQUEST.size + RESPONSE.size :], int.from_bytes(length, "little"))
    _, rest = _split(rest, NONCE_BYTES)
    size, rest = _split(rest, 2)
    opaque, signature = _split(rest, int.from_bytes(size, "little"))
    require(len(signature) == SIGNATURE_BYTES, "spdm-format", "signature's length")
    return SpdmMeasurements(
        nonce=nonce,
        blocks=_blocks(record, count),
        opaque=_fields(opaque),
        signed=evidence[:-SIGNATURE_BYTES],
        signature=signature,
    )


def _split(data: bytes, length: int) -> tuple[bytes, bytes]:
    require(length <= len(data), "spdm-format", "cut off")
    return data[:length], data[length:]


def _blocks(record: bytes, count: int) -> dict[int, bytes]:
    size = BLOCK.size + DIGEST_BYTES
    require(count > 0, "spdm-format", "no measurement")
    require(len(record) == count * size, "spdm-format", "number of blocks")
    found: dict[int, bytes] = {}
    for at in range(0, count * size, size):
        index, specification, outer, kind, inner = BLOCK.unpack(record[at : at + BLOCK.size])
        require((specification, outer, inner) == (DMTF, _BLOCK_PAYLOAD, DIGEST_BYTES), "spdm-format", f"block {index}")
        require(kind & 0x80 == 0, "spdm-format", f"block {index} is no digest")
        require(index not in found, "spdm-format", f"block {index} twice")
        found[index] = record[at + BLOCK.size : at + size]
    return found


def _fields(opaque: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while opaque:
        head, rest = _split(opaque, FIELD.size)
        kind, length = FIELD.unpack(head)
        require(kind not in found, "spdm-format", f"opaque field {kind} twice")
        found[kind], opaque = _split(rest, length)
    return found


def check_signature(measured: SpdmMeasurements, leaf: x509.Certificate) -> None:
    """Refuse (`spdm-signature`) measurements that the leaf's key did not sign."""
    with certificate_errors():
        key = leaf.public_key()
    require(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1", "chain-key", "not ECDSA P-384")
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  (for the type checker)
    half = SIGNATURE_BYTES // 2
    r, s = (int.from_bytes(part, "big") for part in (measured.signature[:half], measured.signature[half:]))
    genuine = True
    try:
        key.verify(encode_dss_signature(r, s), measured.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        genuine = False
    require(genuine, "spdm-signature")


def check_firmware(measured: SpdmMeasurements, leaf: x509.Certificate, *, required: bool) -> bool:
    """Refuse (`fwid`) a device whose firmware is not the one its key was derived for.

    Some drivers report no firmware id: without `required` that is accepted, and false is returned.
    """
    reported, named = measured.opaque.get(FWID), firmware_named(leaf)
    if not required and (reported is None or named is None):
        return False
    missing = "the device reports no firmware id" if reported is None else "the certificate names no firmware"
    detail = missing if reported is None or named is None else "another firmware than the certificate's"
    require(reported is not None and reported == named, "fwid", detail)
    return True


def firmware_named(leaf: x509.Certificate) -> bytes | None:
    """The firmware id (SHA-384) that a certificate names, in either of two TCG DICE extensions.

    `CompositeDeviceID`: version, key, {algorithm, digest}. `DiceTcbInfo`: the first entry of the list [6].
    """
    with certificate_errors():
        for oid, read in ((COMPOSITE_DEVICE, _composite), (TCB_INFO, _tcb_info)):
            for extension in leaf.extensions:
                if extension.oid == oid:
                    return read(extension.value.public_bytes())
    return None


def _composite(extension: bytes) -> bytes:
    _version, _key, named = der.sequence(extension)
    return _digest(named)


def _tcb_info(extension: bytes) -> bytes | None:
    lists = [field.children() for field in der.sequence(extension) if field.tag == _FWIDS]
    return _digest(lists[0][0]) if lists and lists[0] else None


def _digest(entry: der.Value) -> bytes:
    algorithm, digest = entry.children()
    fits = (
        entry.tag == der.SEQUENCE
        and algorithm.dotted() == SHA384_OID
        and digest.tag == der.OCTET_STRING
        and len(digest.body) == DIGEST_BYTES
    )
    require(fits, "chain-format", "firmware id")
    return digest.body


def device_info(leaf: x509.Certificate) -> tuple[str, str]:
    """The chip and the device's own number, by the name that DSP0274 puts into a device's certificate.

    Its form is `maker:chip:number`. Without it the chip is "", and the number that of the certificate.
    """
    with certificate_errors():
        for extension in leaf.extensions:
            if isinstance(extension.value, x509.SubjectAlternativeName):
                for other in extension.value.get_values_for_type(x509.OtherName):
                    if other.type_id == DEVICE_INFO:
                        maker, chip, number = der.read(other.value).text().split(":")
                        require(maker == "NVIDIA" and _NAMED.fullmatch(chip + number) is not None, "chain-format", "device info")
                        return chip, number
        return "", f"{leaf.serial_number:X}"
