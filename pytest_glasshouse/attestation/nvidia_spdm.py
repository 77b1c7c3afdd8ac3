"""Reads and checks NVIDIA's evidence: SPDM measurements, their signature, and its certificate chain (DSP0274, 1.1).

Knows byte forms, signatures and certificates. Refuses to know policies beyond the digests of the pinned roots, to fetch
anything (revocation and reference manifests need a network), and to skip any byte it does not understand.

    request   11 e0 | 01 signature asked for | ff all measurements | nonce 32 | slot
    response  11 60 | param 1 | slot | blocks u8 | record length u24 | record | nonce 32 | opaque length u16 | opaque
    block     index u8 | 01 DMTF | size u16 = 51 | type u8 | size u16 = 48 | SHA-384        opaque  type u16 | size u16 | data
    signature ECDSA P-384 over SHA-384 of all of it: r | s, 48 bytes each                   every number little-endian
"""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import RefusedError
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
DRIVER, VBIOS, FWID = 3, 6, 20
#: TCG DICE: the firmware a device's key was derived for, at the end of the leaf certificate's extension.
FWID_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.1")
CHAIN_LIMIT = 8

_KNOWN_CRITICAL = {x509.BasicConstraints.oid, x509.KeyUsage.oid, FWID_EXTENSION}
_BLOCK_PAYLOAD = 3 + DIGEST_BYTES
_VBIOS_BYTES = 8


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


def read_evidence(evidence: bytes) -> SpdmMeasurements:
    """Request, response and signature, to the last byte. Raises `RefusedError`: `spdm-codes` or `spdm-format`."""
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


def check_firmware(measured: SpdmMeasurements, leaf: x509.Certificate) -> None:
    """Refuse (`fwid`) a device whose firmware is not the one its key was derived for."""
    try:
        extension = leaf.extensions.get_extension_for_oid(FWID_EXTENSION).value
    except x509.ExtensionNotFound:
        raise RefusedError("fwid", "the certificate names no firmware") from None
    named = extension.public_bytes()[-DIGEST_BYTES:]
    require(measured.opaque.get(FWID) == named, "fwid")


def read_chain(pem: str, *, roots: Sequence[str], now: int) -> x509.Certificate:
    """The leaf of a PEM chain, leaf first, that ends in a pinned root and is valid at `now` (wall seconds).

    Raises `RefusedError`: `chain-format`, `chain-root`, `chain-time`, `chain-issuer` or `chain-constraints`.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem.encode("ascii"))
        shown = [_constraints(certificate) for certificate in chain]
    except (ValueError, x509.DuplicateExtension):
        raise RefusedError("chain-format", "not a PEM chain") from None
    # 1. Two certificates to `CHAIN_LIMIT`.
    require(2 <= len(chain) <= CHAIN_LIMIT, "chain-format", "length")  # noqa: PLR2004
    # 2. It ends in a pinned root, by digest: a root of the same name does not count.
    require(chain[-1].fingerprint(SHA256()).hex() in roots, "chain-root")
    # 3. Every certificate is valid now.
    time = dt.datetime.fromtimestamp(now, dt.UTC)
    for certificate in chain:
        require(certificate.not_valid_before_utc <= time <= certificate.not_valid_after_utc, "chain-time")
        require(_understood(certificate), "chain-constraints", "an unknown critical extension")
    # 4. Each was issued by the next: its name and its signature.
    for issued, issuer in pairwise(chain):
        require(_issued_by(issued, issuer), "chain-issuer")
    # 5. The issuers may issue, for a chain of this length. The leaf may not.
    require(not shown[0].ca, "chain-constraints", "the leaf is an authority")
    for below, (certificate, basic) in enumerate(zip(chain[1:], shown[1:], strict=True)):
        require(basic.ca, "chain-constraints", "not an authority")
        require(basic.path_length is None or basic.path_length >= below, "chain-constraints", "path length")
        require(_may_issue(certificate), "chain-constraints", "key usage")
    return chain[0]


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return x509.BasicConstraints(ca=False, path_length=None)


def _understood(certificate: x509.Certificate) -> bool:
    return all(not extension.critical or extension.oid in _KNOWN_CRITICAL for extension in certificate.extensions)


def _issued_by(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True  # RFC 5280 section 4.2.1.3: without the extension every use is allowed
