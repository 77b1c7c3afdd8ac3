"""Hardware evidence on the wire: the nonce a device is asked with, and what one item of `submods` looks like.

Knows names and byte forms that guest and server share. Refuses to judge evidence: `attestation.hardware` does.
"""

from __future__ import annotations

import hashlib
import re

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pytest_glasshouse.wire.evidence import Cnf

#: The kinds of device that a policy may require. Only those with an appraiser can ever be affirmed.
NVIDIA_GPU = "nvidia-gpu"
#: Kinds that speak for the machine a key lives in. A GPU's evidence alone does not: it answers every process that reaches it.
CPU_TEES = frozenset({"sev-snp", "tdx"})
ITEM_SHAPE: dict[str, type] = {"type": str, "evidence": str, "endorsements": list}
ITEM_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
#: The submod of an attestation result that is about the software; no device may call itself that.
RUNTIME = "runtime"
ITEMS_LIMIT = 16
NONCE_BYTES = 32

_DOMAIN = b"glasshouse-device-nonce/1\n"


def device_nonce(nonce: str, cnf: Cnf) -> bytes:
    """The 32 bytes a device signs over: the server's nonce and both ephemeral keys, so its evidence serves no other session."""
    keys = (key.public_bytes(Encoding.Raw, PublicFormat.Raw) for key in (cnf.hpke, cnf.sig))
    return hashlib.sha256(_DOMAIN + bytes.fromhex(nonce) + b"".join(keys)).digest()
