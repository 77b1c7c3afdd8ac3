"""A simulated Intel processor: quotes of TDX, and the collateral for them, under a root certificate made here.

Knows how to make valid evidence, and lets a case change one thing and sign it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.attestation.certificates import as_pem
from pytest_glasshouse.owner.references import TDX_MEASUREMENTS, Hardware, TdxReferences
from pytest_glasshouse.tamper.fake_certificates import CertificateShape, PrivateKey, make_chain, number, value
from pytest_glasshouse.wire import der
from pytest_glasshouse.wire.canonical import Json, b64u, sha256_hex
from pytest_glasshouse.wire.hardware import TDX

MEASURED = {name: hashlib.sha384(name.encode()).digest() for name in TDX_MEASUREMENTS}
#: Intel's own number for its quoting enclaves.
_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
_FMSPC, _QE_SIGNER = "00806F050000", hashlib.sha256(b"quoting enclave").digest()
#: Only pages of the TD itself may be private: the library asks for this bit.
SEPT_VE_DISABLE, DEBUG, MIGRATABLE = 1 << 28, 1, 1 << 29
_SGX = "1.2.840.113741.1.13.1"
_DAY = dt.timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class QuoteFields:
    """The fields of a quote. `bytes()` encodes what is signed, whatever a case changed."""

    report_data: bytes
    version: int = 4
    key_type: int = 2
    tee: int = 0x81
    body: tuple[int, int] = (2, 584)
    attributes: int = SEPT_VE_DISABLE
    measured: Mapping[str, bytes] = field(default_factory=lambda: MEASURED)
    tcb: bytes = bytes(16)

    def __bytes__(self) -> bytes:
        head = struct.pack("<HHI4s16s20s", self.version, self.key_type, self.tee, bytes(4), _VENDOR, bytes(20))
        kind = struct.pack("<HI", *self.body) if self.version == 5 else b""  # noqa: PLR2004
        measured = self.measured
        identity = measured["mrtd"] + measured["mrconfigid"] + bytes(96) + b"".join(measured[f"rtmr{at}"] for at in range(4))
        module = self.tcb + bytes(48 + 48 + 8)
        body = module + self.attributes.to_bytes(8, "little") + bytes(8) + identity + self.report_data
        return head + kind + body + (bytes(64) if self.body[0] == 3 and kind else b"")  # noqa: PLR2004


@dataclass(frozen=True, kw_only=True)
class FakeIntel:
    """A processor's key and its chain in DER, leaf first, the quoting key, and the collateral for it."""

    key: PrivateKey = field(repr=False)
    quoting: ec.EllipticCurvePrivateKey = field(repr=False)
    chain: tuple[bytes, ...]
    collateral: Mapping[str, str]

    def sign(self, quote: bytes, *, chain: tuple[bytes, ...] | None = None) -> bytes:
        """The quote with its signature, and what the signature is certified by."""
        public = self.quoting.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
        auth = bytes(range(32))
        bound = hashlib.sha256(public + auth).digest()
        attributes = bytes.fromhex("11").ljust(16, b"\0")
        report = b"".join(
            (bytes(48), attributes, bytes(64), _QE_SIGNER, bytes(96), struct.pack("<HH", 2, 4), bytes(60), bound.ljust(64, b"\0"))
        )
        pem = "".join(map(as_pem, chain or self.chain)).encode() + b"\0"
        certified = (
            report + raw_signature(self.key, report) + struct.pack("<H", len(auth)) + auth + struct.pack("<HI", 5, len(pem)) + pem
        )
        signature = raw_signature(self.quoting, quote) + public + struct.pack("<HI", 6, len(certified)) + certified
        return quote + struct.pack("<I", len(signature)) + signature

    def item(self, fields: QuoteFields) -> dict[str, Json]:
        """A quote with these fields, as a device's evidence."""
        return shown(self.sign(bytes(fields)))

    def hardware(self, *, required: tuple[str, ...] = (TDX,), **changed: object) -> Hardware:
        """The policy section that a guest on this processor satisfies."""
        references = TdxReferences(
            roots=(sha256_hex(self.chain[-1]),),
            collateral=self.collateral,
            collateral_date=json.loads(self.collateral["tcb_info"])["issueDate"],
            measurements={name: (digest.hex(),) for name, digest in MEASURED.items()},
        )
        return Hardware(required=required, tdx=replace(references, **changed))  # type: ignore[arg-type]


def shown(quote: bytes) -> dict[str, Json]:
    """A quote as a device's evidence."""
    return {"type": TDX, "evidence": b64u(quote), "endorsements": []}


def raw_signature(key: PrivateKey, data: bytes) -> bytes:
    """ECDSA with P-256 as Intel writes it: r and s, 32 bytes each."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  (for the type checker)
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


@cache
def genuine_intel(now: int) -> FakeIntel:
    """The processor whose root is pinned, one for the process."""
    return make_intel(now)


def make_intel(
    now: int, *, status: str = "UpToDate", advisories: tuple[str, ...] = (), issued_days: int = 0, revoked: bool = False
) -> FakeIntel:
    """A processor, and what its maker says of it: a status, advisories, when that was said, whether its key is revoked."""
    shapes = {
        "root": CertificateShape(kind="P-256", signs=True),
        "issuer": CertificateShape(kind="P-256", signs=True, path=0),
        "leaf": CertificateShape(kind="P-256", ca=None, extensions=((x509.ObjectIdentifier(_SGX), _sgx_extension()),)),
    }
    made = make_chain(now, shapes)
    signer = make_chain(
        now, {"root": shapes["root"], "signer": CertificateShape(kind="P-256", ca=None)}, keys={"root": made.keys["root"]}
    )
    # One certificate of the root in every chain.
    root, issuer = made.certificates[-1], made.certificates[1]
    time = dt.datetime.fromtimestamp(now, dt.UTC) + issued_days * _DAY
    tcb = _json({**_tcb_info(status, advisories), **_dates(time)})
    identity = _json({**_QE_IDENTITY, **_dates(time)})
    signing = signer.keys["signer"]
    leaf = x509.load_der_x509_certificate(made.certificates[0])
    signer_chain = as_pem(signer.certificates[0]) + as_pem(root)
    collateral = {
        "pck_crl_issuer_chain": as_pem(issuer) + as_pem(root),
        "root_ca_crl": _revoked("root", made.keys["root"], time, []),
        "pck_crl": _revoked("issuer", made.keys["issuer"], time, [leaf.serial_number] if revoked else []),
        "tcb_info_issuer_chain": signer_chain, "tcb_info": tcb, "tcb_info_signature": raw_signature(signing, tcb.encode()).hex(),
        "qe_identity_issuer_chain": signer_chain, "qe_identity": identity,
        "qe_identity_signature": raw_signature(signing, identity.encode()).hex(),
    }  # fmt: skip
    return FakeIntel(
        key=made.keys["leaf"], quoting=ec.generate_private_key(ec.SECP256R1()), chain=made.certificates, collateral=collateral
    )


_QE_IDENTITY: dict[str, object] = {
    "id": "TD_QE", "version": 2, "tcbEvaluationDataNumber": 17, "miscselect": "00000000", "miscselectMask": "FFFFFFFF",
    "attributes": "11" + "00" * 15, "attributesMask": "FBFFFFFFFFFFFFFF" + "00" * 8, "mrsigner": _QE_SIGNER.hex().upper(),
    "isvprodid": 2, "tcbLevels": [{"tcb": {"isvsvn": 4}, "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": "UpToDate"}],
}  # fmt: skip


def _tcb_info(status: str, advisories: tuple[str, ...]) -> dict[str, object]:
    components = [{"svn": 0}] * 16
    level = {
        "tcb": {"sgxtcbcomponents": components, "pcesvn": 11, "tdxtcbcomponents": components},
        "tcbDate": "2024-03-13T00:00:00Z", "tcbStatus": status, "advisoryIDs": list(advisories),
    }  # fmt: skip
    module = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}
    return {
        "id": "TDX", "version": 3, "fmspc": _FMSPC, "pceId": "0000", "tcbType": 0, "tcbEvaluationDataNumber": 17,
        "tdxModule": module, "tdxModuleIdentities": [], "tcbLevels": [level],
    }  # fmt: skip


def _sgx_extension() -> bytes:
    def entry(oid: str, content: bytes) -> bytes:
        return value(_oid(oid), content)

    numbers = [entry(f"{_SGX}.2.{place}", number(0)) for place in range(1, 17)]
    tcb = value(*numbers, entry(f"{_SGX}.2.17", number(11)), entry(f"{_SGX}.2.18", value(bytes(16), tag=der.OCTET_STRING)))
    return value(
        entry(f"{_SGX}.1", value(bytes(16), tag=der.OCTET_STRING)),
        entry(f"{_SGX}.2", tcb),
        entry(f"{_SGX}.3", value(bytes(2), tag=der.OCTET_STRING)),
        entry(f"{_SGX}.4", value(bytes.fromhex(_FMSPC), tag=der.OCTET_STRING)),
        entry(f"{_SGX}.5", value(b"\0", tag=0x0A)),
    )


def _oid(dotted: str) -> bytes:
    first, second, *rest = map(int, dotted.split("."))
    body = bytearray()
    for arc in (40 * first + second, *rest):
        parts = [arc & 0x7F]
        while arc := arc >> 7:
            parts.append(arc & 0x7F | 0x80)
        body += bytes(reversed(parts))
    return value(bytes(body), tag=der.OID)


def _revoked(issuer: str, key: PrivateKey, time: dt.datetime, serials: list[int]) -> str:
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"no such device: {issuer}")])
    built = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(time - _DAY).next_update(time + 30 * _DAY)
    built = built.add_extension(x509.CRLNumber(1), critical=False)
    built = built.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
    for serial in serials:
        built = built.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(time - _DAY).build()
        )
    return built.sign(key, SHA256()).public_bytes(Encoding.DER).hex()


def _dates(time: dt.datetime) -> dict[str, object]:
    return {"issueDate": f"{time:%Y-%m-%dT%H:%M:%SZ}", "nextUpdate": f"{time + 30 * _DAY:%Y-%m-%dT%H:%M:%SZ}"}


def _json(content: dict[str, object]) -> str:
    return json.dumps(content, separators=(",", ":"))
