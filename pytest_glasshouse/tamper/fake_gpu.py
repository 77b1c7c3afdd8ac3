"""A simulated GPU: evidence in NVIDIA's layout, under a root certificate made here.

Knows how to make valid evidence, and lets a case change one thing and sign it. The project holds no real device's evidence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509 import SubjectAlternativeName

from pytest_glasshouse.attestation import nvidia_spdm as spdm
from pytest_glasshouse.attestation.certificates import as_pem
from pytest_glasshouse.owner.references import GpuReferences, Hardware
from pytest_glasshouse.tamper.fake_certificates import CertificateShape, make_chain, number, value
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex
from pytest_glasshouse.wire.hardware import NVIDIA_GPU

DRIVER, VBIOS = "580.95.05", "96.00.74.00.1A"
FWID = hashlib.sha384(b"firmware").digest()
CHIP, NUMBER = "GH100", "48B02D0000000001"
BLOCKS = {index: hashlib.sha384(str(index).encode()).digest() for index in (1, 2, 3)}
_VBIOS_RAW = bytes.fromhex("007400961a000000")
#: The object identifier of SHA-384, in DER.
_SHA384 = bytes.fromhex("0609608648016503040202")
#: The object identifier of the device's name, in DER.
_DEVICE_INFO = bytes.fromhex("060a2b06010401831c821201")


@dataclass(frozen=True, kw_only=True)
class SpdmReport:
    """The fields of a device's evidence. `bytes()` encodes them, whatever a case changed."""

    nonce: bytes
    request: tuple[int, int, int, int] = (spdm.VERSION, spdm.GET_MEASUREMENTS, spdm.SIGNATURE_ASKED, spdm.ALL_MEASUREMENTS)
    slot: int = 0
    response: tuple[int, int, int, int] = (spdm.VERSION, spdm.MEASUREMENTS, 0, 0)
    blocks: tuple[tuple[int, int, int, int, int, bytes], ...] = tuple(
        (index, spdm.DMTF, 51, 1, 48, digest) for index, digest in BLOCKS.items()
    )
    count: int | None = None
    opaque: tuple[tuple[int, bytes], ...] = ((spdm.VBIOS, _VBIOS_RAW), (spdm.DRIVER, DRIVER.encode() + b"\0"), (spdm.FWID, FWID))
    opaque_tail: bytes = b""

    def __bytes__(self) -> bytes:
        record = b"".join(spdm.BLOCK.pack(*head) + digest for *head, digest in self.blocks)
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
    """A device's key and its chain in DER, leaf first."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[bytes, ...]

    def sign(self, evidence: bytes) -> bytes:
        """The evidence with the device's signature."""
        half = spdm.SIGNATURE_BYTES // 2
        r, s = decode_dss_signature(self.key.sign(evidence, ec.ECDSA(SHA384())))
        return evidence + r.to_bytes(half, "big") + s.to_bytes(half, "big")

    def pem(self) -> str:
        """The chain as evidence carries it."""
        return "".join(map(as_pem, self.chain))

    def item(self, nonce: bytes) -> dict[str, Json]:
        """Valid evidence for `nonce`."""
        return item(self.sign(bytes(SpdmReport(nonce=nonce))), self.pem())

    def hardware(self, *, required: tuple[str, ...] = (NVIDIA_GPU,), count: int | None = None) -> Hardware:
        """The policy section that this device satisfies."""
        references = GpuReferences(
            roots=(sha256_hex(self.chain[-1]),),
            drivers=(DRIVER,),
            vbios=(VBIOS,),
            measurements={"2": (BLOCKS[2].hex(),), "3": (hashlib.sha384(b"older").hexdigest(), BLOCKS[3].hex())},
            models=(CHIP,),
            count=count,
        )
        return Hardware(required=required, gpu=references)


def item(evidence: bytes, pem: str, kind: str = NVIDIA_GPU) -> dict[str, Json]:
    """One device's evidence, as it travels beside the token."""
    return {"type": kind, "evidence": b64u(evidence), "endorsements": [pem]}


def _firmware_id(digest: bytes) -> bytes:
    return value(_SHA384, value(digest, tag=der.OCTET_STRING))


def composite(digest: bytes = FWID) -> tuple[x509.ObjectIdentifier, bytes]:
    """The firmware id as recorded from Hopper: version, key, firmware id."""
    return spdm.COMPOSITE_DEVICE, value(number(1), value(), _firmware_id(digest))


def tcb_info(digest: bytes = FWID) -> tuple[x509.ObjectIdentifier, bytes]:
    """As recorded from Blackwell: a list of firmware ids, the device's own first, with other fields around it."""
    ids = value(_firmware_id(digest), _firmware_id(bytes(48)), tag=0xA6)
    return spdm.TCB_INFO, value(value(b"NVIDIA", tag=0x80), ids, bytes.fromhex("87050080000000"))


def device_name(text: str = f"NVIDIA:{CHIP}:{NUMBER}") -> tuple[x509.ObjectIdentifier, bytes]:
    """The device's name among the alternative names of its certificate."""
    named = value(value(text.encode(), tag=der.UTF8_STRING), tag=0xA0)
    return SubjectAlternativeName.oid, value(value(_DEVICE_INFO, named, tag=0xA0))


#: The chain of a good device, root first.
SHAPES = {
    "root": CertificateShape(),
    "authority": CertificateShape(),
    "issuer": CertificateShape(signs=True),
    "leaf": CertificateShape(ca=None, extensions=(composite(), device_name())),
}


@cache
def genuine(now: int) -> FakeGpu:
    """The device whose root is pinned, one for the process."""
    return make_device(now)


def make_device(now: int, changed: str = "", **changes: object) -> FakeGpu:
    """A device with its own chain. `changes` are made to the shape of the certificate called `changed`."""
    made = make_chain(now, {name: replace(shape, **changes) if name == changed else shape for name, shape in SHAPES.items()})  # type: ignore[arg-type]
    key = made.keys["leaf"]
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  (for the type checker)
    return FakeGpu(key=key, chain=made.certificates)


def spliced(device: FakeGpu, at: int, foreign: FakeGpu) -> FakeGpu:
    """The chain of `device` with one certificate of another in its place."""
    return replace(device, chain=(*device.chain[:at], foreign.chain[at], *device.chain[at + 1 :]))
