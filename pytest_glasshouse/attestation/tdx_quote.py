"""Reads an Intel TDX quote, versions 4 and 5, to the last byte that is signed for.

Knows byte forms (Intel's DCAP quote specification). Checks no signature: `attestation.tdx` has a library do that. What follows a
quote must be zeros (kernels give a buffer of fixed length) and is no part of it.

    header     version u16 | key type u16 | tee u32 = 81 | svn 4 | vendor 16 | user data 20
    v5 only    body type u16 (2: TD 1.0, 3: TD 1.5) | body size u32
    body       tcb svn 16 | mrseam 48 | mrsignerseam 48 | attributes of the module 8 | td attributes 8 | xfam 8 | mrtd 48
               mrconfigid 48 | mrowner 48 | mrownerconfig 48 | rtmr 4 x 48 | report data 64 | TD 1.5: tcb svn 16, mrservicetd 48
    signature  size u32 | signature 64 | key 64 | type u16 = 6 | size u32 | QE report 384 | its signature 64
               size u16 | QE data | type u16 = 5 | size u32 | PCK chain, PEM               every number little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_glasshouse.attestation.certificates import pem_blocks
from pytest_glasshouse.attestation.messages import require

#: The largest quote that is looked at, with what follows it.
QUOTE_LIMIT = 32_768
ECDSA_P256, TDX_TEE, SGX_TEE = 2, 0x81, 0x00
_HEADER = struct.Struct("<HHI4s16s20s")
_BODY = struct.Struct("<HI")
_REPORT = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
#: The bodies of version 5 by their type, with what follows the fields of TD 1.0.
_BODIES = {2: 0, 3: 64}
_SIGNED_PART = 64 + 64
_CERTIFICATION, _CERTIFICATION_TYPE, _PCK_CHAIN = struct.Struct("<HI"), 6, 5
_QE_PART = 384 + 64
#: Bits of the TD's attributes: the low byte makes it debuggable.
_DEBUG_BITS, _MIGRATABLE_BIT = 0xFF, 29


@dataclass(frozen=True, kw_only=True)
class TdxQuote:
    """A quote's fields.

    `measurements` are MRTD, MRCONFIGID and RTMR0 to 3 by name, in hexadecimal. `whole` has no padding. `chain` is the PCK's, in
    DER, leaf first.
    """

    version: int
    attributes: int
    measurements: Mapping[str, str]
    report_data: bytes
    fields: Mapping[str, str]
    whole: bytes
    chain: tuple[bytes, ...]

    @property
    def debuggable(self) -> bool:
        """Whether the host may read the TD's memory."""
        return bool(self.attributes & _DEBUG_BITS)

    @property
    def migratable(self) -> bool:
        """Whether the TD may be moved to another machine."""
        return bool(self.attributes >> _MIGRATABLE_BIT & 1)


_NAMES = (
    "tee_tcb_svn", "mr_seam", "mr_signer_seam", "seam_attributes", "td_attributes", "xfam", "mr_td", "mr_config_id", "mr_owner",
    "mr_owner_config", "rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3", "report_data",
)  # fmt: skip
_MEASURED = {
    "mrtd": "mr_td", "mrconfigid": "mr_config_id", **{f"rtmr{number}": f"rt_mr{number}" for number in range(4)},
}  # fmt: skip


def read_quote(data: bytes) -> TdxQuote:
    """A quote. Raises `RefusedError`: `tdx-format`, or `chain-format` for the certificates in it."""
    require(_HEADER.size < len(data) <= QUOTE_LIMIT, "tdx-format", "length")
    version, key_type, tee, *_ = _HEADER.unpack_from(data)
    require(tee != SGX_TEE, "tdx-sgx", "a quote of an SGX enclave")
    require(version in (4, 5) and key_type == ECDSA_P256 and tee == TDX_TEE, "tdx-format", "version, key or TEE")
    start, more = _HEADER.size, 0
    if version == 5:  # noqa: PLR2004
        head, _ = _split(data[start:], _BODY.size)
        kind, size = _BODY.unpack(head)
        require(kind in _BODIES and size == _REPORT.size + _BODIES[kind], "tdx-format", "body")
        start, more = start + _BODY.size, _BODIES.get(kind, 0)
    body, rest = _split(data[start:], _REPORT.size)
    _, rest = _split(rest, more)
    length, rest = _split(rest, 4)
    signature, padding = _split(rest, int.from_bytes(length, "little"))
    require(not any(padding), "tdx-format", "bytes after the quote")
    chain = _signature_chain(signature)
    values = dict(zip(_NAMES, _REPORT.unpack(body), strict=True))
    return TdxQuote(
        version=version,
        attributes=int.from_bytes(values["td_attributes"], "little"),
        measurements={name: values[field].hex() for name, field in _MEASURED.items()},
        report_data=values["report_data"],
        fields={name: value.hex() for name, value in values.items()},
        whole=data[: len(data) - len(padding)],
        chain=tuple(chain),
    )


def _signature_chain(signature: bytes) -> list[bytes]:
    """The PCK's chain. Every byte has its place: the chain is in its one spelling, and nothing is left over."""
    _, rest = _split(signature, _SIGNED_PART)
    rest = _certification(rest, _CERTIFICATION_TYPE)
    _, rest = _split(rest, _QE_PART)
    length, rest = _split(rest, 2)
    _, rest = _split(rest, int.from_bytes(length, "little"))
    chain = _certification(rest, _PCK_CHAIN)
    return pem_blocks(chain.removesuffix(b"\0").decode("latin-1"))


def _certification(data: bytes, kind: int) -> bytes:
    head, rest = _split(data, _CERTIFICATION.size)
    require(_CERTIFICATION.unpack(head) == (kind, len(rest)), "tdx-format", "certification data")
    return rest


def _split(data: bytes, length: int) -> tuple[bytes, bytes]:
    require(length <= len(data), "tdx-format", "cut off")
    return data[:length], data[length:]
