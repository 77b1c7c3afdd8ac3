"""Reads an attestation report of AMD SEV-SNP, versions 2 to 5, and the certificate of the key that signed it.

Knows byte forms and AMD's extensions (publications 56860 and 57230). Refuses to know policies. Every reserved byte must be
zero, the unsigned ones after the signature too: nothing in a report has two forms.

    000  version u32 | guest svn u32 | policy u64 | family 16 | image 16
    030  vmpl u32 | algorithm u32 | current tcb u64 | platform u64 | flags u32 | 0 u32
    050  report data 64 | measurement 48 | host data 32 | id key 48 | author key 48
    140  report id 32 | id of the migration agent 32 | reported tcb u64 | from version 3: family, model, stepping | 0
    1a0  chip id 64 | committed tcb u64 | versions of the firmware 8 | launch tcb u64 | from version 5: two u64 | 0
    2a0  signature: r 72, s 72 | 0                                                   every number little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.serialization import load_der_public_key

from pytest_glasshouse.attestation.certificates import RawCertificate, certificate_errors
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.wire import der

REPORT_BYTES, SIGNED_BYTES = 0x4A0, 0x2A0
VERSIONS = range(2, 6)
ECDSA_P384_SHA384 = 1
VCEK, VLEK = "vcek", "vlek"
_SIGNERS = {0: VCEK, 1: VLEK}
#: Bits of the guest's policy.
SMT, ALWAYS_ONE, MIGRATION, DEBUG = 16, 17, 18, 19
_POLICY_BITS = 26
_HEAD = struct.Struct("<IIQ16s16sIIQQII64s48s32s48s48s32s32sQ")
_REST = struct.Struct("<64sQ4B4BQ")
_NUMBER_BYTES, _FIELD_BYTES = 48, 72
#: The components of a TCB by their place in its eight bytes, low first, and the extension that has each in a certificate:
#: publications 56860 (section 2.2) and 57230 (table 11 for Turin, family 1Ah). The crate `sev` of virtee has the same two orders,
#: a third one for the processors after Turin, which are refused here, and the same root certificates.
_BEFORE_TURIN = {0: "bootloader", 1: "tee", 6: "snp", 7: "microcode"}
_TURIN = {0: "fmc", 1: "bootloader", 2: "tee", 3: "snp", 7: "microcode"}
_AMD = "1.3.6.1.4.1.3704.1"
_LEVELS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}
_PRODUCT, _HARDWARE_ID, _PROVIDER_ID = f"{_AMD}.2", f"{_AMD}.4", f"{_AMD}.5"
_CHIP_BYTES, _TURIN_CHIP_BYTES = 64, 8
#: From version 3 a report has the processor's family, which is this from Turin on.
TURIN_FAMILY = 0x1A


@dataclass(frozen=True, kw_only=True)
class SnpReport:
    """A report's fields. `family` is None before version 3, `signer` is "" for a key that is neither VCEK nor VLEK."""

    version: int
    policy: int
    vmpl: int
    signer: str
    chip_masked: bool
    report_data: bytes
    measurement: bytes
    host_data: bytes
    report_id: bytes
    reported_tcb: bytes
    family: int | None
    chip_id: bytes
    signed: bytes
    signature: tuple[int, int]

    def allows(self, bit: int) -> bool:
        """Whether the guest's policy has this bit set."""
        return bool(self.policy >> bit & 1)


@dataclass(frozen=True, kw_only=True)
class SnpKey:
    """What a VCEK's or VLEK's certificate says. `hardware_id` is empty for a VLEK, `levels` are the TCB's components by name."""

    signer: str
    product: str
    hardware_id: bytes
    levels: Mapping[str, int]

    @property
    def turin(self) -> bool:
        """Whether the processor is of the generation with another order of the TCB's components."""
        return self.product.startswith("Turin")


def read_report(data: bytes) -> SnpReport:
    """A report, to the last byte. Raises `RefusedError("snp-format")`."""
    require(len(data) == REPORT_BYTES, "snp-format", "length")
    (
        version, _svn, policy, _family_id, _image_id, vmpl, algorithm, _current, _platform, flags, zero, report_data, measurement,
        host_data, _id_key, _author_key, report_id, _agent, reported,
    ) = _HEAD.unpack_from(data)  # fmt: skip
    require(version in VERSIONS, "snp-format", f"version {version}")
    require(algorithm == ECDSA_P384_SHA384, "snp-format", "algorithm")
    require(policy >> ALWAYS_ONE & 1 == 1 and policy >> _POLICY_BITS == 0, "snp-format", "policy")
    require(flags >> 5 == 0 and zero == 0, "snp-format", "flags")
    chip_id, _committed, _, _, _, gap, _, _, _, gap2, _launch = _REST.unpack_from(data, 0x1A0)
    # Reserved: after the reported TCB, between the firmware's versions, and up to the signature.
    has_family, has_vectors = version >= 3, version >= 5  # noqa: PLR2004
    reserved = data[0x18B if has_family else 0x188 : 0x1A0] + bytes((gap, gap2)) + data[0x208 if has_vectors else 0x1F8 : 0x2A0]
    require(not any(reserved), "snp-format", "reserved bytes")
    r, s = (data[at : at + _FIELD_BYTES] for at in (SIGNED_BYTES, SIGNED_BYTES + _FIELD_BYTES))
    unsigned = r[_NUMBER_BYTES:] + s[_NUMBER_BYTES:] + data[SIGNED_BYTES + 2 * _FIELD_BYTES :]
    require(not any(unsigned), "snp-format", "unsigned bytes")
    return SnpReport(
        version=version, policy=policy, vmpl=vmpl, signer=_SIGNERS.get(flags >> 2 & 7, ""), chip_masked=bool(flags & 2),
        report_data=report_data, measurement=measurement, host_data=host_data, report_id=report_id,
        reported_tcb=reported.to_bytes(8, "little"), family=data[0x188] if has_family else None, chip_id=chip_id,
        signed=data[:SIGNED_BYTES], signature=(int.from_bytes(r, "little"), int.from_bytes(s, "little")),
    )  # fmt: skip


def check_signature(report: SnpReport, certificate: RawCertificate) -> None:
    """Refuse (`snp-signature`) a report that the certificate's key did not sign."""
    with certificate_errors():
        key = load_der_public_key(certificate.public_key)
    require(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1", "chain-key", "not ECDSA P-384")
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101  (for the type checker)
    genuine = True
    try:
        key.verify(encode_dss_signature(*report.signature), report.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        genuine = False
    require(genuine, "snp-signature")


def read_key(certificate: RawCertificate) -> SnpKey:
    """What the certificate says about key and processor. Raises `RefusedError("chain-format")`."""
    found = certificate.extensions
    with certificate_errors():
        product = der.read(found.get(_PRODUCT, b"")).text()
        is_chip, is_loaded = _HARDWARE_ID in found, _PROVIDER_ID in found
        require(is_chip != is_loaded and product.isprintable(), "chain-format", "neither VCEK nor VLEK")
        levels = {name: der.read(found[oid]).number() for name, number in _LEVELS.items() if (oid := f"{_AMD}.{number}") in found}
    return SnpKey(
        signer=VCEK if is_chip else VLEK, product=product, hardware_id=_hardware_id(found.get(_HARDWARE_ID, b"")), levels=levels
    )


def _hardware_id(extension: bytes) -> bytes:
    """The extension holds the bytes themselves, in some certificates as an octet string."""
    if len(extension) in (0, _CHIP_BYTES, _TURIN_CHIP_BYTES):
        return extension
    with certificate_errors():
        value = der.read(extension)
        fits = value.tag == der.OCTET_STRING and len(value.body) in (_CHIP_BYTES, _TURIN_CHIP_BYTES)
        require(fits, "chain-format", "hardware id")
        return value.body


def check_key(report: SnpReport, key: SnpKey) -> None:
    """Refuse a report whose key is for another kind of signer, another chip, or another TCB than it reports."""
    require(report.signer == key.signer, "snp-signer", "the report names another kind of key than its certificate")
    require(report.family is None or (report.family >= TURIN_FAMILY) == key.turin, "snp-chip", "another generation")
    if key.signer == VCEK:
        # A masked chip id cannot be compared, and is all zeros.
        rest = report.chip_id[len(key.hardware_id) :]
        require(report.chip_id[: len(key.hardware_id)] == key.hardware_id and not any(rest), "snp-chip", "another chip")
    found = tcb(report, key)
    require(found == {name: key.levels.get(name) for name in found}, "snp-key-tcb")


def tcb(report: SnpReport, key: SnpKey) -> dict[str, int]:
    """The reported TCB's components by name. Raises `RefusedError("snp-format")` for bytes that are none."""
    return levels(report, turin=key.turin)


def levels(report: SnpReport, *, turin: bool) -> dict[str, int]:
    """The reported TCB's components by name, in the order of Turin or of the processors before it."""
    order = _TURIN if turin else _BEFORE_TURIN
    require(not any(byte for at, byte in enumerate(report.reported_tcb) if at not in order), "snp-format", "reported TCB")
    return {name: report.reported_tcb[at] for at, name in order.items()}
