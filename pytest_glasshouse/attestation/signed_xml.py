"""Reads XML that signs itself as a whole (XML-DSig, enveloped, Canonical XML 1.1), as makers publish reference manifests.

Knows one form of signature and no other: the root signed as it stands, ECDSA P-384 with SHA-384, the chain beside the signature.
Refuses document types, entities, instructions and comments, so that what is signed is what is read.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from xml.parsers import expat

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from pytest_glasshouse.attestation.certificates import as_pem, certificate_errors, read_chain
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import RefusedError

#: The largest document that is looked at in bytes, its elements and how deep they lie.
DOCUMENT_LIMIT, _ELEMENTS, _DEPTH = 1 << 20, 10_000, 16
DSIG = "http://www.w3.org/2000/09/xmldsig#"
_C14N = {f"http://www.w3.org/2006/12/xml-c14n11{comments}" for comments in ("", "#WithComments")}
_C14N |= {f"http://www.w3.org/TR/2001/REC-xml-c14n-20010315{comments}" for comments in ("", "#WithComments")}
_ENVELOPED = f"{DSIG}enveloped-signature"
_ECDSA_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_SHA384 = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_HALF = 48

Namespaces: TypeAlias = Mapping[str, str]


@dataclass(kw_only=True)
class Element:
    """One element: its name and its attributes' as they are written, and which namespaces hold inside."""

    tag: str
    attributes: list[tuple[str, str]]
    namespaces: Namespaces
    children: list[Element | str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """`{namespace}local`."""
        prefix, _, local = self.tag.rpartition(":")
        return f"{{{self.namespaces.get(prefix, '')}}}{local}"

    def below(self, *names: str) -> list[Element]:
        """The elements at a path of names below this one."""
        found = [self]
        for name in names:
            found = [each for one in found for each in one.children if isinstance(each, Element) and each.name == name]
        return found

    def one(self, *names: str) -> Element:
        """The one element at a path. Raises `RefusedError("rim-format")`."""
        found = self.below(*names)
        require(len(found) == 1, "rim-format", f"expected one {names[-1].rpartition('}')[2]}, saw {len(found)}")
        return found[0]

    def get(self, name: str) -> str:
        """An attribute by its name without a prefix, "" where there is none."""
        return next((value for key, value in self.attributes if key.rpartition(":")[2] == name), "")

    @property
    def text(self) -> str:
        """The characters in it, which holds no element. Raises `RefusedError("rim-format")`."""
        require(all(isinstance(each, str) for each in self.children), "rim-format", "an element where text was expected")
        return "".join(each for each in self.children if isinstance(each, str))


def read_signed(data: bytes, *, roots: Collection[str], now: int) -> Element:
    """The root of a document that is signed under a pinned root. Certificates are judged at `now` (wall seconds).

    Raises `RefusedError`: `rim-format`, `rim-digest`, `rim-signature` or `chain-*`.
    """
    root = parse(data)
    # 1. One signature, of the form above, about the whole document.
    signature = root.one(f"{{{DSIG}}}Signature")
    require(root.children[-1] is signature or not str(root.children[-1]).strip(), "rim-format", "the signature is not at the end")
    info = signature.one(f"{{{DSIG}}}SignedInfo")
    reference = info.one(f"{{{DSIG}}}Reference")
    transforms = [each.get("Algorithm") for each in reference.below(f"{{{DSIG}}}Transforms", f"{{{DSIG}}}Transform")]
    require(reference.get("URI") == "" and transforms[:1] == [_ENVELOPED], "rim-format", "not signed as a whole")
    require(len(transforms) == 2 and transforms[1] in _C14N, "rim-format", "transforms")  # noqa: PLR2004
    forms = [info.one(f"{{{DSIG}}}{name}").get("Algorithm") for name in ("CanonicalizationMethod", "SignatureMethod")]
    require(forms[0] in _C14N and forms[1] == _ECDSA_SHA384, "rim-format", "algorithm")
    require(reference.one(f"{{{DSIG}}}DigestMethod").get("Algorithm") == _SHA384, "rim-format", "digest's algorithm")
    # 2. The document is the one whose digest is signed.
    digest = hashlib.sha384(canonical_xml(root, without=signature)).digest()
    stated = _base64(reference.one(f"{{{DSIG}}}DigestValue").text)
    require(hmac.compare_digest(digest, stated), "rim-digest")
    # 3. Signed by the leaf of a chain to a pinned root.
    listed = signature.below(f"{{{DSIG}}}KeyInfo", f"{{{DSIG}}}X509Data", f"{{{DSIG}}}X509Certificate")
    leaf, *_ = read_chain("".join(as_pem(_base64(each.text)) for each in listed), roots=roots, now=now)
    _check(info, _base64(signature.one(f"{{{DSIG}}}SignatureValue").text), leaf)
    return root


def _check(info: Element, signature: bytes, leaf: object) -> None:
    with certificate_errors():
        key = leaf.public_key()  # type: ignore[attr-defined]
    require(isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1", "chain-key", "not ECDSA P-384")
    require(len(signature) == 2 * _HALF, "rim-signature", "length")
    r, s = (int.from_bytes(part, "big") for part in (signature[:_HALF], signature[_HALF:]))
    genuine = True
    try:
        key.verify(encode_dss_signature(r, s), canonical_xml(info), ec.ECDSA(SHA384()))
    except InvalidSignature:
        genuine = False
    require(genuine, "rim-signature")


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError:
        raise RefusedError("rim-format", "base64") from None


def parse(data: bytes) -> Element:
    """The root of a document. Raises `RefusedError("rim-format")`."""
    require(0 < len(data) <= DOCUMENT_LIMIT, "rim-format", "size")
    made = _Builder()
    reader = expat.ParserCreate()
    reader.ordered_attributes = True
    reader.buffer_text = True
    reader.StartElementHandler, reader.EndElementHandler, reader.CharacterDataHandler = made.start, made.end, made.text
    for handler in ("StartDoctypeDeclHandler", "EntityDeclHandler", "ProcessingInstructionHandler", "CommentHandler"):
        setattr(reader, handler, _refuse)
    try:
        reader.Parse(data, True)  # noqa: FBT003  (it takes no name)
    except expat.ExpatError as error:
        raise RefusedError("rim-format", str(error)) from None
    # A document that was read to its end has exactly one.
    return made.roots[0]


def _refuse(*_: object) -> None:
    raise RefusedError("rim-format", "a document type, an instruction or a comment")


class _Builder:
    def __init__(self) -> None:
        self.roots: list[Element] = []
        self._open: list[Element] = []
        self._count = 0

    def start(self, tag: str, pairs: list[str]) -> None:
        self._count += 1
        require(self._count <= _ELEMENTS and len(self._open) < _DEPTH, "rim-format", "too many elements")
        attributes = list(zip(pairs[::2], pairs[1::2], strict=True))
        declared = {name.partition(":")[2]: value for name, value in attributes if name.partition(":")[0] == "xmlns"}
        # Attributes of XML itself are inherited in the canonical form, and no manifest has one.
        plain = all(declared.values()) and not any(name.startswith("xml:") for name, _ in attributes)
        require(plain, "rim-format", "namespaces")
        above = self._open[-1].namespaces if self._open else {}
        element = Element(tag=tag, attributes=attributes, namespaces={**above, **declared})
        prefixes = {name.rpartition(":")[0] for name in (tag, *(name for name, _ in attributes if not name.startswith("xmlns")))}
        require(prefixes - {""} <= element.namespaces.keys(), "rim-format", "an unknown prefix")
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.roots.append(element)
        self._open.append(element)

    def end(self, _tag: str) -> None:
        self._open.pop()

    def text(self, content: str) -> None:
        self._open[-1].children.append(content)


def canonical_xml(element: Element, *, without: Element | None = None) -> bytes:
    """An element as Canonical XML 1.1 spells it, with the namespaces of what is around it."""
    return "".join(_spell(element, {}, without)).encode()


def _spell(element: Element, above: Namespaces, without: Element | None) -> list[str]:
    own = {prefix: uri for prefix, uri in element.namespaces.items() if above.get(prefix) != uri}
    parts = [f"<{element.tag}"]
    parts += [f' {f"xmlns:{prefix}" if prefix else "xmlns"}="{_attribute(own[prefix])}"' for prefix in sorted(own)]

    def place(attribute: tuple[str, str]) -> tuple[str, str]:
        prefix, _, local = attribute[0].rpartition(":")
        return (element.namespaces[prefix] if prefix else ""), local

    plain = [each for each in element.attributes if each[0].partition(":")[0] != "xmlns"]
    parts += [f' {name}="{_attribute(value)}"' for name, value in sorted(plain, key=place)]
    parts.append(">")
    for each in element.children:
        if isinstance(each, str):
            parts.append(_text(each))
        elif each is not without:
            parts += _spell(each, element.namespaces, without)
    return [*parts, f"</{element.tag}>"]


def _text(content: str) -> str:
    return content.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#xD;")


def _attribute(content: str) -> str:
    spelled = content.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return spelled.replace("\t", "&#x9;").replace("\n", "&#xA;").replace("\r", "&#xD;")
