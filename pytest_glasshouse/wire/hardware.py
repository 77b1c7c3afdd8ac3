"""Hardware evidence on the wire: what a device is asked to sign, and how evidence travels.

The `submods` claim names each device with its kind and the digest of its evidence. The evidence itself travels beside the
token: that of eight GPUs does not fit in one. Knows names and byte forms that guest and server share. Refuses to judge
evidence: `attestation.hardware` does.
"""

from __future__ import annotations

import hashlib
import re

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.wire.canonical import Json, canonical, tagged
from pytest_glasshouse.wire.evidence import Cnf

#: The kinds of device that a policy may require.
NVIDIA_GPU, TDX, SEV_SNP = "nvidia-gpu", "tdx", "sev-snp"
#: Kinds that speak for the machine a key lives in. A GPU's evidence alone does not: it answers every process that reaches it.
CPU_TEES = frozenset({SEV_SNP, TDX})
#: A device in the `submods` claim.
NAMED_SHAPE: dict[str, type] = {"type": str, "sha256": str}
#: Its evidence, beside the token.
ITEM_SHAPE: dict[str, type] = {"type": str, "evidence": str, "endorsements": list}
ITEM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
#: The submod of an attestation result that is about the software; no device may call itself that.
RUNTIME = "runtime"
ITEMS_LIMIT = 16
#: The largest request for a key, in bytes: a token, and the evidence of `ITEMS_LIMIT` devices beside it.
RELEASE_LIMIT = 262_144
NONCE_BYTES = 32
REPORT_DATA_BYTES = 64

_DOMAIN = b"glasshouse-device-nonce/1\n"
_REPORT_DOMAIN = b"glasshouse-report-data/1\n"


def device_nonce(nonce: str, cnf: Cnf) -> bytes:
    """The 32 bytes a device signs over: the server's nonce and both ephemeral keys, so its evidence serves no other session."""
    keys = (key.public_bytes(Encoding.Raw, PublicFormat.Raw) for key in (cnf.hpke, cnf.sig))
    return hashlib.sha256(_DOMAIN + bytes.fromhex(nonce) + b"".join(keys)).digest()


def report_data(nonce32: bytes) -> bytes:
    """The 64 bytes that a processor's TEE (TDX, SEV-SNP) signs as report data for a session's `device_nonce`."""
    return hashlib.sha512(_REPORT_DOMAIN + nonce32).digest()


def item_sha256(item: Json) -> str:
    """The digest by which a token names one device's evidence."""
    return tagged("glasshouse-device-evidence/1", canonical(item))


def named(devices: dict[str, Json]) -> dict[str, Json]:
    """The `submods` claim about the evidence of these devices."""
    return {name: {"type": item["type"], "sha256": item_sha256(item)} for name, item in devices.items() if isinstance(item, dict)}
