"""A simulated AMD processor: reports of SEV-SNP under a root certificate made here.

Knows how to make valid evidence, and lets a case change one thing and sign it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509 import ObjectIdentifier

from pytest_glasshouse.attestation import snp_report as snp
from pytest_glasshouse.attestation.certificates import as_pem
from pytest_glasshouse.owner.references import Hardware, SnpReferences
from pytest_glasshouse.tamper.fake_certificates import CertificateShape, PrivateKey, make_chain, number, value
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex
from pytest_glasshouse.wire.hardware import SEV_SNP

MEASUREMENT = hashlib.sha384(b"an image that starts a glasshouse guest").digest()
HOST_DATA = hashlib.sha256(b"what the host was told").digest()
CHIP = hashlib.sha512(b"a chip").digest()
#: The TCB's components, as the report's eight bytes and as a certificate spells them. The first is for processors before Turin.
LEVELS = {"bootloader": 3, "tee": 1, "snp": 20, "microcode": 209}
TURIN_LEVELS = {"fmc": 1, "bootloader": 3, "tee": 1, "snp": 4, "microcode": 81}
_ORDERS = {False: ("bootloader", "tee", None, None, None, None, "snp", "microcode"),
           True: ("fmc", "bootloader", "tee", "snp", None, None, None, "microcode")}  # fmt: skip
_AMD = "1.3.6.1.4.1.3704.1"
_LEVEL_EXTENSIONS = {"bootloader": "3.1", "tee": "3.2", "snp": "3.3", "microcode": "3.8", "fmc": "3.9"}


@dataclass(frozen=True, kw_only=True)
class SnpFields:
    """The fields of a report. `bytes()` encodes the signed part, whatever a case changed."""

    report_data: bytes
    version: int = 3
    policy: int = 1 << snp.ALWAYS_ONE
    vmpl: int = 0
    algorithm: int = snp.ECDSA_P384_SHA384
    flags: int = 0
    zero: int = 0
    measurement: bytes = MEASUREMENT
    host_data: bytes = HOST_DATA
    levels: Mapping[str, int] = field(default_factory=lambda: LEVELS)
    turin: bool = False
    family: int = 0x19
    chip_id: bytes = CHIP
    #: Bytes put over the encoded ones, at their places.
    over: tuple[tuple[int, bytes], ...] = ()

    def __bytes__(self) -> bytes:
        tcb = bytes(self.levels.get(name, 0) if name else 0 for name in _ORDERS[self.turin])
        numbers = [(each).to_bytes(size, "little") for each, size in (
            (self.version, 4), (0, 4), (self.policy, 8), (0, 32), (self.vmpl, 4), (self.algorithm, 4),
        )]  # fmt: skip
        flags = self.flags.to_bytes(4, "little") + self.zero.to_bytes(4, "little")
        head = b"".join(numbers) + tcb + bytes(8) + flags
        body = (
            self.report_data + self.measurement + self.host_data + bytes(96) + hashlib.sha256(b"report").digest() + b"\xff" * 32
        )
        family = bytes((self.family, 1, 1)) if self.version > 2 else bytes(3)  # noqa: PLR2004
        tail = tcb + family + bytes(21) + self.chip_id.ljust(64, b"\0") + tcb + bytes(8) + tcb
        made = bytearray((head + body + tail).ljust(snp.SIGNED_BYTES, b"\0"))
        for at, content in self.over:
            made[at : at + len(content)] = content
        return bytes(made)


@dataclass(frozen=True, kw_only=True)
class FakeAmd:
    """A processor's key and its chain in DER, leaf first."""

    key: PrivateKey = field(repr=False)
    chain: tuple[bytes, ...]

    def sign(self, report: bytes) -> bytes:
        """The report with the processor's signature."""
        assert isinstance(self.key, ec.EllipticCurvePrivateKey)  # noqa: S101  (for the type checker)
        r, s = decode_dss_signature(self.key.sign(report, ec.ECDSA(SHA384())))
        signature = r.to_bytes(72, "little") + s.to_bytes(72, "little")
        return (report + signature).ljust(snp.REPORT_BYTES, b"\0")

    def item(self, fields: SnpFields) -> dict[str, Json]:
        """A report with these fields, as a device's evidence."""
        return self.shown(self.sign(bytes(fields)))

    def shown(self, report: bytes) -> dict[str, Json]:
        """A report as a device's evidence."""
        return {"type": SEV_SNP, "evidence": b64u(report), "endorsements": ["".join(map(as_pem, self.chain))]}

    def hardware(self, *, required: tuple[str, ...] = (SEV_SNP,), **changed: object) -> Hardware:
        """The policy section that a guest on this processor satisfies."""
        references = SnpReferences(
            roots=(sha256_hex(self.chain[-1]),),
            measurements=(MEASUREMENT.hex(),),
            tcb=LEVELS,
            host_data=(HOST_DATA.hex(),),
        )
        return Hardware(required=required, snp=replace(references, **changed))  # type: ignore[arg-type]


def extensions(
    *, product: str = "Milan-B0", chip: bytes | None = CHIP, provider: str | None = None, levels: Mapping[str, int] | None = None
) -> tuple[tuple[ObjectIdentifier, bytes], ...]:
    """AMD's extensions of a VCEK's certificate, or with a `provider` of a VLEK's."""
    found = [(f"{_AMD}.1", number(0)), (f"{_AMD}.2", value(product.encode(), tag=der.IA5_STRING))]
    found += [(f"{_AMD}.{_LEVEL_EXTENSIONS[name]}", number(level)) for name, level in (levels or LEVELS).items()]
    if chip is not None:
        found.append((f"{_AMD}.4", chip))
    if provider is not None:
        found.append((f"{_AMD}.5", value(provider.encode(), tag=der.IA5_STRING)))
    return tuple((ObjectIdentifier(oid), content) for oid, content in found)


#: AMD's chain, root first. AMD gives its processors' certificates the number 0.
SHAPES = {
    "root": CertificateShape(kind="RSA"),
    "issuer": CertificateShape(kind="RSA", signs=True, path=0),
    "leaf": CertificateShape(ca=None, serial=0, extensions=extensions()),
}


@cache
def genuine_amd(now: int) -> FakeAmd:
    """The processor whose root is pinned, one for the process."""
    return make_amd(now)


def make_amd(now: int, changed: str = "", **changes: object) -> FakeAmd:
    """A processor with its own key. `changes` are made to the shape of the certificate called `changed`.

    RSA keys take long to make: those of root and issuer are the process's, so another root needs `kind="P-384"`.
    """
    shapes = {name: replace(shape, **changes) if name == changed else shape for name, shape in SHAPES.items()}  # type: ignore[arg-type]
    made = make_chain(now, shapes, keys={name: key for name, key in _rsa_keys().items() if shapes[name].kind == "RSA"})
    return FakeAmd(key=made.keys["leaf"], chain=made.certificates)


@cache
def _rsa_keys() -> dict[str, PrivateKey]:
    from pytest_glasshouse.tamper.fake_certificates import new_key

    return {name: new_key("RSA") for name in ("root", "issuer")}
