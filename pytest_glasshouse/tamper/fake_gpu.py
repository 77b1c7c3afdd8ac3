"""A simulated GPU: evidence in NVIDIA's layout, under a root certificate made here.

Knows how to make valid evidence, and lets a case change one thing and sign it. The project holds no real device's evidence.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.owner.references import GpuReferences, Hardware
from pytest_glasshouse.wire.canonical import Json, b64u
from pytest_glasshouse.wire.hardware import NVIDIA_GPU

DRIVER, VBIOS = "580.95.05", "96.00.74.00.1A"
FWID = hashlib.sha384(b"firmware").digest()
BLOCKS = {index: hashlib.sha384(str(index).encode()).digest() for index in (1, 2, 3)}
_VBIOS_RAW = bytes.fromhex("007400961a000000")
_UNKNOWN_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")


@dataclass(frozen=True, kw_only=True)
class SpdmReport:
    """The fields of a device's evidence. `bytes()` encodes them, whatever a case changed."""

    nonce: bytes
    request: tuple[int, int, int, int] = (spdm.VERSION, spdm.GET_MEASUREMENTS, spdm.SIGNATURE_ASKED, spdm.ALL_MEASUREMENTS)
    slot: int = 0
    response: tuple[int, int, int, int] = (spdm.VERSION, spdm.MEASUREMENTS, 0, 0)
    blocks: tuple[tuple[int, int, int, int, int, bytes], ...] = tuple(
        (index, spdm.DMTF, 51, 1, 48, value) for index, value in BLOCKS.items()
    )
    count: int | None = None
    opaque: tuple[tuple[int, bytes], ...] = ((spdm.VBIOS, _VBIOS_RAW), (spdm.DRIVER, DRIVER.encode() + b"\0"), (spdm.FWID, FWID))
    opaque_tail: bytes = b""

    def __bytes__(self) -> bytes:
        record = b"".join(spdm.BLOCK.pack(*head) + value for *head, value in self.blocks)
        opaque = b"".join(spdm.FIELD.pack(kind, len(data)) + data for kind, data in self.opaque) + self.opaque_tail
        count = len(self.blocks) if self.count is None else self.count
        return b"".join(
            (
                spdm.REQUEST.pack(*self.request, self.nonce, self.slot),
                spdm.RESPONSE.pack(*self.response, count, len(record).to_bytes(3, "little")),
                record,
                hashlib.sha256(b"the device's own nonce").digest(),
                len(opaque).to_bytes(2, "little"),
                opaque,
            )
        )


@dataclass(frozen=True, kw_only=True)
class FakeGpu:
    """A device's key and its chain, leaf first."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[x509.Certificate, ...]

    def sign(self, evidence: bytes) -> bytes:
        """The evidence with the device's signature."""
        half = spdm.SIGNATURE_BYTES // 2
        r, s = decode_dss_signature(self.key.sign(evidence, ec.ECDSA(SHA384())))
        return evidence + r.to_bytes(half, "big") + s.to_bytes(half, "big")

    def pem(self) -> str:
        """The chain as evidence carries it."""
        return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in self.chain)

    def item(self, nonce: bytes) -> dict[str, Json]:
        """Valid evidence for `nonce`."""
        return item(self.sign(bytes(SpdmReport(nonce=nonce))), self.pem())

    def hardware(self, *, required: tuple[str, ...] = (NVIDIA_GPU,)) -> Hardware:
        """The policy section that this device satisfies."""
        references = GpuReferences(
            roots=(self.chain[-1].fingerprint(SHA256()).hex(),),
            drivers=(DRIVER,),
            vbios=(VBIOS,),
            measurements={"2": (BLOCKS[2].hex(),), "3": (hashlib.sha384(b"older").hexdigest(), BLOCKS[3].hex())},
        )
        return Hardware(required=required, gpu=references)


def item(evidence: bytes, pem: str, kind: str = NVIDIA_GPU) -> dict[str, Json]:
    """One item of `submods`."""
    return {"type": kind, "evidence": b64u(evidence), "endorsements": [pem]}


@dataclass(frozen=True, kw_only=True)
class CertificateShape:
    """How one certificate of a chain is built."""

    valid: tuple[int, int] = (-365, 365)  # days around now
    ca: bool | None = True  # None: no such extension
    path: int | None = None
    signs: bool | None = None  # key usage; None: no such extension
    firmware: bytes | None = None
    unknown_critical: bool = False  # it has an unknown critical extension
    curve: ec.EllipticCurve = field(default_factory=ec.SECP384R1)


#: The chain of a good device, root first.
SHAPES = {
    "root": CertificateShape(),
    "authority": CertificateShape(),
    "issuer": CertificateShape(signs=True),
    "leaf": CertificateShape(ca=None, firmware=FWID),
}


@cache
def genuine(now: int) -> FakeGpu:
    """The device whose root is pinned, one for the process."""
    return make_device(now)


def make_device(now: int, changed: str = "", **changes: object) -> FakeGpu:
    """A device with its own chain. `changes` are made to the shape of the certificate called `changed`."""
    shapes = {name: replace(shape, **changes) if name == changed else shape for name, shape in SHAPES.items()}  # type: ignore[arg-type]
    chain: list[x509.Certificate] = []
    issuer, signing = "root", ec.generate_private_key(shapes["root"].curve)
    key = signing
    for name, shape in shapes.items():
        key = signing if name == "root" else ec.generate_private_key(shape.curve)
        chain.append(_builder(now, issuer, name, key, shape).sign(signing, SHA384()))
        issuer, signing = name, key
    return FakeGpu(key=key, chain=tuple(reversed(chain)))


def spliced(device: FakeGpu, at: int, foreign: FakeGpu) -> FakeGpu:
    """The chain of `device` with one certificate of another in its place."""
    return replace(device, chain=(*device.chain[:at], foreign.chain[at], *device.chain[at + 1 :]))


def _builder(
    now: int, issuer: str, subject: str, key: ec.EllipticCurvePrivateKey, shape: CertificateShape
) -> x509.CertificateBuilder:
    time = dt.datetime.fromtimestamp(now, dt.UTC)
    built = (
        x509.CertificateBuilder()
        .issuer_name(_name(issuer))
        .subject_name(_name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(time + dt.timedelta(days=shape.valid[0]))
        .not_valid_after(time + dt.timedelta(days=shape.valid[1]))
    )
    if shape.ca is not None:
        built = built.add_extension(x509.BasicConstraints(ca=shape.ca, path_length=shape.path), critical=True)
    if shape.signs is not None:
        built = built.add_extension(_use(sign_certificates=shape.signs), critical=True)
    if shape.firmware is not None:
        named = x509.UnrecognizedExtension(spdm.FWID_EXTENSION, b"\x04\x30" + shape.firmware)
        built = built.add_extension(named, critical=False)
    if shape.unknown_critical:
        built = built.add_extension(x509.UnrecognizedExtension(_UNKNOWN_EXTENSION, b"\x05\x00"), critical=True)
    return built


def _use(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=sign_certificates, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"no such device: {text}")])
