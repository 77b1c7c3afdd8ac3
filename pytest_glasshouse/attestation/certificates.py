"""Reads the certificate chains that devices and manifests come with, as far as a pinned root (RFC 5280).

Knows certificates and times. Refuses to fetch anything, so revocation is not consulted, and to trust a root by its name: the
caller gives digests. A chain is a stranger's: whatever the library makes of it ends as `chain-*`.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding

from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.wire import der

CHAIN_LIMIT = 8
#: The largest chain that is looked at, in characters of PEM.
PEM_LIMIT = 32_768
_VERSION_3, _EXTENSIONS, _TRUE, _EMPTY = bytes.fromhex("a003020102"), 0xA3, b"\x01\x01\xff", b"\x30\0"
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_KNOWN_CRITICAL = frozenset({x509.BasicConstraints.oid, x509.KeyUsage.oid})


@contextmanager
def certificate_errors() -> Iterator[None]:
    """Whatever the library raises about a stranger's certificate is the refusal `chain-format`.

    It parses lazily and raises a dozen unrelated types: for versions, algorithms, curves, names, extensions, times.
    """
    try:
        yield
    except (RefusedError, MemoryError):
        raise
    except IntegrityError as error:
        raise RefusedError("chain-format", error.detail) from None
    except Exception as error:  # noqa: BLE001
        raise RefusedError("chain-format", type(error).__name__) from None


def load(data: bytes) -> x509.Certificate:
    """One certificate in DER. Raises `RefusedError("chain-format")`, for a serial number below 1 too (RFC 5280 4.1.2.2)."""
    with certificate_errors():
        require(serial_number(data) > 0, "chain-format", "a serial number below 1")
        return x509.load_der_x509_certificate(data)


def serial_number(data: bytes) -> int:
    """The serial number of a certificate in DER, read before the library sees it: some makers count from 0."""
    fields = der.sequence(data)[0].children()
    return fields[1 if fields[0].tag == 0xA0 else 0].number()  # noqa: PLR2004  ([0] is the version)


def pem_blocks(pem: str) -> list[bytes]:
    """The certificates of a PEM text as DER. Only one spelling is accepted: nothing between them, and only newlines at the end.

    Raises `RefusedError("chain-format")`.
    """
    require(0 < len(pem) <= PEM_LIMIT and pem.isascii(), "chain-format", "not a PEM chain")
    with certificate_errors():
        begin, end = "-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----"
        blocks = [base64.b64decode(part.partition(end)[0], validate=False) for part in pem.split(begin)[1:]]
        require(0 < len(blocks) <= CHAIN_LIMIT, "chain-format", "length")
        spelled = "".join(as_pem(block) for block in blocks)
    require(spelled.rstrip("\n") == pem.rstrip("\n"), "chain-format", "PEM in another spelling")
    # RFC 5280 section 6.1: none is in a path twice. A root issues itself, so that its own would be one chain in two forms.
    require(len(set(blocks)) == len(blocks), "chain-format", "a certificate twice")
    return blocks


def as_pem(data: bytes) -> str:
    """A certificate in DER as PEM (RFC 7468)."""
    text = base64.b64encode(data).decode()
    lines = (text[at : at + 64] for at in range(0, len(text), 64))
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----\n"))


def read_chain(
    pem: str, *, roots: Collection[str], now: int, known_critical: Collection[x509.ObjectIdentifier] = ()
) -> list[x509.Certificate]:
    """A PEM chain, leaf first, that ends in a pinned root and is valid at `now` (wall seconds).

    Raises `RefusedError`: `chain-format`, `chain-root`, `chain-time`, `chain-issuer` or `chain-constraints`.
    """
    chain = [load(block) for block in pem_blocks(pem)]
    with certificate_errors():
        check_issuers(chain[1:], roots=roots, now=now, known_critical=known_critical)
        # The leaf: valid now, issued by the next, and no authority.
        check_certificate(chain[0], now=now, known_critical=known_critical)
        require(_issued_by(chain[0], chain[1]), "chain-issuer")
        require(not _constraints(chain[0]).ca, "chain-constraints", "the leaf is an authority")
    return chain


def check_issuers(
    chain: Sequence[x509.Certificate], *, roots: Collection[str], now: int, known_critical: Collection[x509.ObjectIdentifier] = ()
) -> None:
    """Refuse issuers, the one above the leaf first, that do not lead to a pinned root or may not issue."""
    with certificate_errors():
        # 1. They end in a pinned root, by digest: a root of the same name does not count.
        require(bool(chain) and fingerprint(chain[-1]) in roots, "chain-root")
        # 2. Every certificate is valid now.
        for certificate in chain:
            check_certificate(certificate, now=now, known_critical=known_critical)
        # 3. Each was issued by the next: its name and its signature.
        for issued, issuer in pairwise(chain):
            require(_issued_by(issued, issuer), "chain-issuer")
        # 4. They may issue, for a chain of this length.
        for below, certificate in enumerate(chain):
            basic = _constraints(certificate)
            require(basic.ca, "chain-constraints", "not an authority")
            require(basic.path_length is None or basic.path_length >= below, "chain-constraints", "path length")
            require(_may_issue(certificate), "chain-constraints", "key usage")


def check_certificate(certificate: x509.Certificate, *, now: int, known_critical: Collection[x509.ObjectIdentifier] = ()) -> None:
    """Refuse one certificate outside its time, or with a critical extension that nobody here understands."""
    check_time(certificate.not_valid_before_utc, certificate.not_valid_after_utc, now=now)
    known = {*_KNOWN_CRITICAL, *known_critical}
    understood = all(not extension.critical or extension.oid in known for extension in certificate.extensions)
    require(understood, "chain-constraints", "an unknown critical extension")


def check_time(start: dt.datetime, end: dt.datetime, *, now: int) -> None:
    """Refuse (`chain-time`) unless `now` (wall seconds) is in the period."""
    require(start <= dt.datetime.fromtimestamp(now, dt.UTC) <= end, "chain-time")


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate: how a root is pinned."""
    return certificate.fingerprint(SHA256()).hex()


def public_bytes(certificate: x509.Certificate) -> bytes:
    """The certificate in DER."""
    return certificate.public_bytes(Encoding.DER)


def _constraints(certificate: x509.Certificate) -> x509.BasicConstraints:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return x509.BasicConstraints(ca=False, path_length=None)


def _issued_by(issued: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        issued.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _may_issue(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True  # RFC 5280 section 4.2.1.3: without the extension every use is allowed


@dataclass(frozen=True, kw_only=True)
class RawCertificate:
    """A certificate read here, field by field, where the library may not be asked: AMD numbers its certificates 0.

    RFC 5280 forbids that number, and the library warns of it today and will refuse it. Names and keys are in DER.
    """

    signed: bytes
    signature: bytes
    issuer: bytes
    subject: bytes
    public_key: bytes
    not_before: dt.datetime
    not_after: dt.datetime
    extensions: Mapping[str, bytes]
    critical: frozenset[str]


def read_raw(data: bytes) -> RawCertificate:
    """One certificate in DER, version 3, whatever its number. Raises `RefusedError("chain-format")`."""
    with certificate_errors():
        body, outer, signature = der.sequence(data)
        version, serial, algorithm, issuer, validity, subject, key, *rest = body.children()
        require(version.whole == _VERSION_3 and serial.number() >= 0, "chain-format", "version or number")
        require(algorithm.whole == outer.whole, "chain-format", "two algorithms")
        require(signature.tag == der.BIT_STRING and signature.body[:1] == b"\0", "chain-format", "signature")
        (wrapped,) = rest
        require(wrapped.tag == _EXTENSIONS, "chain-format", "no extensions")
        start, end = (_time(each) for each in validity.children())
        (listed,) = wrapped.children()
        found: dict[str, bytes] = {}
        critical = set()
        for each in listed.children():
            oid, *flag, content = each.children()
            name = oid.dotted()
            require(name not in found and content.tag == der.OCTET_STRING, "chain-format", "extension")
            require([part.whole for part in flag] in ([], [_TRUE]), "chain-format", "extension")
            found[name] = content.body
            critical |= {name} if flag else set()
    return RawCertificate(
        signed=body.whole, signature=signature.body[1:], issuer=issuer.whole, subject=subject.whole,
        public_key=key.whole, not_before=start, not_after=end, extensions=found, critical=frozenset(critical),
    )  # fmt: skip


def check_raw(certificate: RawCertificate, issuer: x509.Certificate, *, now: int) -> None:
    """Refuse a leaf that is not valid at `now`, or that `issuer` did not sign with RSA-PSS and SHA-384, as AMD's do.

    Raises `RefusedError`: `chain-time`, `chain-constraints`, `chain-issuer` or `chain-format`.
    """
    with certificate_errors():
        check_time(certificate.not_before, certificate.not_after, now=now)
        known = {oid.dotted_string for oid in _KNOWN_CRITICAL}
        require(certificate.critical <= known, "chain-constraints", "an unknown critical extension")
        constraints = certificate.extensions.get(x509.BasicConstraints.oid.dotted_string, _EMPTY)
        require(
            not any(each.body != b"\0" for each in der.sequence(constraints)), "chain-constraints", "the leaf is an authority"
        )
        require(certificate.issuer == issuer.subject.public_bytes(), "chain-issuer", "name")
        key, genuine = issuer.public_key(), False
        if isinstance(key, rsa.RSAPublicKey):
            with suppress(InvalidSignature):
                scheme = padding.PSS(padding.MGF1(SHA384()), SHA384.digest_size)
                key.verify(certificate.signature, certificate.signed, scheme, SHA384())
                genuine = True
        require(genuine, "chain-issuer", "signature")


def _time(value: der.Value) -> dt.datetime:
    form = {_UTC_TIME: "%y%m%d%H%M%SZ", _GENERALIZED_TIME: "%Y%m%d%H%M%SZ"}[value.tag]
    return dt.datetime.strptime(value.text(), form).replace(tzinfo=dt.UTC)
