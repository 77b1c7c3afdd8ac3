"""Seals a workload into a package and describes it in a signed manifest.

Knows the plaintext and the data key it makes for it. Refuses to publish a digest of the canary: the memory scan searches for
its bytes, and nothing compares them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_MANIFEST, hpke_text
from pytest_glasshouse.wire.package import CANARY, parse_header, part_context, write
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import expect, thumbprint, verify

CANARY_BYTES = 256
MANIFEST_VERSION = 1
MANIFEST_SHAPE: dict[str, type] = {
    "iss": str, "package": str, "version": int, "run": str, "round_nonce": str, "header_sha256": str,
    "sealed_bytes": int, "parts": list, "workload": dict, "confidential": bool, "owner_hpke": str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SealedPackage:
    """A sealed package, its manifest, and its key, for owner and server only. `canary` must not be found by a search."""

    package: bytes
    manifest: str
    manifest_sha256: str
    header_sha256: str
    data_key: Secret
    canary: Secret


def seal(
    parts: Mapping[str, bytes],
    *,
    owner: Owner,
    run: str,
    round_nonce: str,
    workload: Mapping[str, Json],
    confidential: bool = False,
    version: int = MANIFEST_VERSION,
    segment: int = floe.SEGMENT,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> SealedPackage:
    """Seal `parts` and a fresh canary under a fresh key. `workload` is public: the manifest repeats it."""
    if CANARY in parts:
        raise ConfigurationError(f"the part name {CANARY!r} is reserved for the canary; rename the part")
    key, canary, package_id = random_bytes(floe.KEY_BYTES), random_bytes(CANARY_BYTES), random_bytes(32).hex()
    plain = {**parts, CANARY: canary}
    messages = [
        (name, len(data), _message(key, package_id, index, len(plain), name, data, segment, random_bytes))
        for index, (name, data) in enumerate(plain.items())
    ]
    package = write(package_id, segment, messages)
    header = parse_header(package)
    claims: dict[str, Json] = {
        "iss": owner.kid,
        "package": package_id,
        "version": version,
        "run": run,
        "round_nonce": round_nonce,
        "header_sha256": header.sha256,
        "sealed_bytes": len(package),
        "parts": [{"name": part.name, "size": part.size} for part in header.parts],
        "workload": dict(workload),
        "confidential": confidential,
        "owner_hpke": hpke_text(owner.hpke_public),
    }
    manifest = owner.sign_manifest(claims)
    return SealedPackage(
        package=package,
        manifest=manifest,
        manifest_sha256=sha256_hex(manifest.encode()),
        header_sha256=header.sha256,
        data_key=Secret(key),
        canary=Secret(canary),
    )


def _message(
    key: bytes,
    package: str,
    index: int,
    of: int,
    name: str,
    data: bytes,
    segment: int,
    random_bytes: Callable[[int], bytes],
) -> bytes:
    return floe.encrypt(key, part_context(package, name, index, of, len(data)), data, segment=segment, random_bytes=random_bytes)


def read_manifest(manifest: str, *, owner: Ed25519PublicKey) -> dict[str, Json]:
    """The claims of a manifest `owner` signed. Raises `IntegrityError`."""
    claims = verify(manifest, key=owner, typ=TYP_MANIFEST)
    expect(claims, MANIFEST_SHAPE)
    if claims["iss"] != thumbprint(owner):
        raise IntegrityError("manifest", "iss")
    return claims
