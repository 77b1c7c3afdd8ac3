"""Reference manifests in NVIDIA's form, signed under a root made here."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from pytest_glasshouse.tamper.fake_certificates import CertificateShape, MadeChain, make_chain
from pytest_glasshouse.wire.canonical import sha256_hex

NOW = 1_800_000_000
HASHES = {index: hashlib.sha384(str(index).encode()).hexdigest() for index in range(8)}
_C14N = "http://www.w3.org/2006/12/xml-c14n11"
_SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SIGNED_INFO = (
    '<ds:SignedInfo{namespaces}><ds:CanonicalizationMethod Algorithm="{c14n}"></ds:CanonicalizationMethod>'
    '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#{method}"></ds:SignatureMethod>'
    '<ds:Reference URI="{uri}"><ds:Transforms>'
    '<ds:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"></ds:Transform>'
    '<ds:Transform Algorithm="{c14n}"></ds:Transform></ds:Transforms>'
    '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod>'
    "<ds:DigestValue>{digest}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """Who signs manifests: the leaf of a chain."""

    chain: MadeChain

    @property
    def root(self) -> str:
        return sha256_hex(self.chain.certificates[-1])


def make_maker(**leaf: object) -> Maker:
    """A maker with a root of its own."""
    shapes = {"root": CertificateShape(), "issuer": CertificateShape(signs=True, path=0)}
    return Maker(chain=make_chain(NOW, {**shapes, "leaf": CertificateShape(ca=None, **leaf)}))  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a manifest says; `bytes` are made by `signed`. Indexes count from 0, as NVIDIA's do."""

    version: str = "580.95.05"
    chip: str = "GH100"
    active: Mapping[int, Sequence[str]] = field(default_factory=lambda: {1: [HASHES[1]], 4: [HASHES[4], HASHES[5]]})
    inactive: Sequence[int] = (0,)
    more: str = ""
    uri: str = ""
    c14n: str = _C14N
    method: str = "ecdsa-sha384"

    def signed(self, maker: Maker) -> bytes:
        resources = [self._resource(index, [HASHES[0]], "False") for index in self.inactive]
        resources += [self._resource(index, hashes, "True") for index, hashes in self.active.items()]
        # As NVIDIA's: unused namespaces are declared, and elements without content are written as such by the canonical form only.
        head = f'<SoftwareIdentity xmlns="{_SWID}" xmlns:ns0="{_SWID}" xmlns:ns2="urn:sha384" name="{self.chip}">\n'
        meta = f'<ns0:Meta colloquialVersion="{self.version}" product="{self.chip}"></ns0:Meta>\n'
        body = f'<ns0:Payload xmlns:SHA384="urn:sha384">\n{"".join(resources)}</ns0:Payload>\n{self.more}'
        digest = _base64(hashlib.sha384(f"{head}{meta}{body}</SoftwareIdentity>".encode()).digest())
        form = {"c14n": self.c14n, "uri": self.uri, "digest": digest, "method": self.method}
        inherited = f' xmlns="{_SWID}" xmlns:ds="http://www.w3.org/2000/09/xmldsig#" xmlns:ns0="{_SWID}" xmlns:ns2="urn:sha384"'
        key = maker.chain.keys["leaf"]
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        r, s = decode_dss_signature(key.sign(_SIGNED_INFO.format(namespaces=inherited, **form).encode(), ec.ECDSA(SHA384())))
        certificates = "".join(f"<ds:X509Certificate>{_base64(each)}</ds:X509Certificate>" for each in maker.chain.certificates)
        signature = (
            f'<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#">{_SIGNED_INFO.format(namespaces="", **form)}'
            f"<ds:SignatureValue>{_base64(r.to_bytes(48, 'big') + s.to_bytes(48, 'big'))}</ds:SignatureValue>"
            f"<ds:KeyInfo><ds:X509Data>{certificates}</ds:X509Data></ds:KeyInfo></ds:Signature>"
        )
        # In the file, elements are closed as people write them.
        return f"{head}{meta.replace('></ns0:Meta>', '/>')}{body}{signature}</SoftwareIdentity>".encode()

    @staticmethod
    def _resource(index: int, hashes: Sequence[str], active: str) -> str:
        listed = "".join(f' ns2:Hash{place}="{each}"' for place, each in enumerate(hashes))
        attributes = f'active="{active}" alternatives="{len(hashes)}" index="{index}" name="m" size="48" type="Measurement"'
        return f"<ns0:Resource {attributes}{listed}></ns0:Resource>\n"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
