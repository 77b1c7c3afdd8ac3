"""Certificates of makers that do not exist: whole chains under roots made here, with one thing changed where a case wants it.

Knows how certificates are built and signed. What stands in a device's own extensions is the caller's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.x509.oid import NameOID

from pytest_glasshouse.wire import der

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
_UNKNOWN_EXTENSION = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
_DAY_S = 86_400


@dataclass(frozen=True, kw_only=True)
class CertificateShape:
    """How one certificate of a chain is built."""

    valid: tuple[int, int] = (-365, 365)  # days around now
    ca: bool | None = True  # None: no such extension
    path: int | None = None
    signs: bool | None = None  # key usage; None: no such extension
    extensions: tuple[tuple[x509.ObjectIdentifier, bytes], ...] = ()
    serial: int | None = None  # the certificate's number; None: any
    unknown_critical: bool = False  # it has an unknown critical extension
    kind: str = "P-384"  # of its key: P-256, P-384, RSA
    name: str | None = None  # None: what it is called in the chain


@dataclass(frozen=True, kw_only=True)
class MadeChain:
    """Certificates in DER, leaf first, and the keys of all of them by their names."""

    certificates: tuple[bytes, ...]
    keys: Mapping[str, PrivateKey]


def make_chain(now: int, shapes: Mapping[str, CertificateShape], *, keys: Mapping[str, PrivateKey] | None = None) -> MadeChain:
    """A chain of the shapes, the root first among them. Keys that are given are used, the others are new."""
    chain: list[bytes] = []
    made: dict[str, PrivateKey] = {}
    issuer = ""
    for name, shape in shapes.items():
        made[name] = (keys or {}).get(name) or new_key(shape.kind)
        above = issuer or name
        chain.append(_issue(now, (shapes[above].name or above, made[above]), (shape.name or name, made[name]), shape))
        issuer = name
    return MadeChain(certificates=tuple(reversed(chain)), keys=made)


def new_key(kind: str) -> PrivateKey:
    """A new key of this kind."""
    if kind == "RSA":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return ec.generate_private_key(ec.SECP256R1() if kind == "P-256" else ec.SECP384R1())


def value(*parts: bytes, tag: int = der.SEQUENCE) -> bytes:
    """A DER value of these parts."""
    body = b"".join(parts)
    if len(body) < 128:  # noqa: PLR2004
        return bytes((tag, len(body))) + body
    size = (len(body).bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + len(body).to_bytes(size, "big") + body


def number(of: int) -> bytes:
    """A DER integer."""
    return value(of.to_bytes((of + (of < 0)).bit_length() // 8 + 1, "big", signed=True), tag=der.INTEGER)


def sign(key: PrivateKey, data: bytes) -> bytes:
    """A signature as these makers make it: ECDSA with the hash of the curve's size, or RSA-PSS with SHA-384."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size), SHA384())
    return key.sign(data, ec.ECDSA(_hash(key)))


def _hash(key: PrivateKey) -> SHA256 | SHA384:
    return SHA256() if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1" else SHA384()


def _issue(now: int, issuer: tuple[str, PrivateKey], subject: tuple[str, PrivateKey], shape: CertificateShape) -> bytes:
    time = dt.datetime.fromtimestamp(now, dt.UTC)
    built = (
        x509.CertificateBuilder()
        .issuer_name(_name(issuer[0]))
        .subject_name(_name(subject[0]))
        .public_key(subject[1].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(time + dt.timedelta(days=shape.valid[0]))
        .not_valid_after(time + dt.timedelta(days=shape.valid[1]))
    )
    if shape.ca is not None:
        built = built.add_extension(x509.BasicConstraints(ca=shape.ca, path_length=shape.path), critical=True)
    if shape.signs is not None:
        built = built.add_extension(_use(sign_certificates=shape.signs), critical=True)
    for oid, content in shape.extensions:
        built = built.add_extension(x509.UnrecognizedExtension(oid, content), critical=False)
    if shape.unknown_critical:
        built = built.add_extension(x509.UnrecognizedExtension(_UNKNOWN_EXTENSION, b"\x05\x00"), critical=True)
    from cryptography.hazmat.primitives.serialization import Encoding

    signing, algorithm = issuer[1], _hash(issuer[1])
    if isinstance(signing, rsa.RSAPrivateKey):
        signed = built.sign(signing, algorithm, rsa_padding=padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size))
    else:
        signed = built.sign(signing, algorithm)
    made = signed.public_bytes(Encoding.DER)
    return made if shape.serial is None else renumbered(made, signing, shape.serial)


def renumbered(certificate: bytes, signing: PrivateKey, serial: int) -> bytes:
    """A certificate with another serial number, signed again: no library makes one that is not positive."""
    body, algorithm, _ = der.sequence(certificate)
    version, _, *rest = body.children()
    tbs = value(version.whole, number(serial), *(each.whole for each in rest))
    return value(tbs, algorithm.whole, value(b"\0", sign(signing, tbs), tag=der.BIT_STRING))


def _use(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        key_cert_sign=sign_certificates, crl_sign=sign_certificates, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"no such device: {text}")])
