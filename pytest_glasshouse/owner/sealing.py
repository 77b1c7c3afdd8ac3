"""Seals a workload into a package and describes it in a signed manifest.

Knows the plaintext and the data key it makes for it. Refuses to publish a digest of the canary: the memory scan searches for
its bytes, and nothing compares them.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from pytest_glasshouse.errors import ConfigurationError, IntegrityError
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import Json, sha256_hex
from pytest_glasshouse.wire.evidence import TYP_MANIFEST, hpke_text
from pytest_glasshouse.wire.package import CANARY, head, header_digest, part_context
from pytest_glasshouse.wire.part_file import PartSource
from pytest_glasshouse.wire.secret import Secret
from pytest_glasshouse.wire.tokens import expect, thumbprint, verify

CANARY_BYTES = 256
MANIFEST_VERSION = 1
MANIFEST_SHAPE: dict[str, type] = {
    "iss": str, "package": str, "version": int, "run": str, "round_nonce": str, "header_sha256": str,
    "sealed_bytes": int, "parts": list, "workload": dict, "confidential": bool, "owner_hpke": str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sealing:
    """A package that is sealed while it is sent or written, and its manifest; `data_key` is for owner and server only.

    `canary` must not be found by a search. `size` is the package's, in bytes.
    """

    manifest: str
    header_sha256: str
    size: int
    data_key: Secret
    canary: Secret
    _head: bytes = field(repr=False)
    _messages: tuple[_Message, ...] = field(repr=False)
    _random_bytes: Callable[[int], bytes] = field(repr=False)

    @property
    def manifest_sha256(self) -> str:
        """The manifest's digest."""
        return sha256_hex(self.manifest.encode())

    def pieces(self) -> Generator[bytes | memoryview]:
        """The package from its first byte to its last. A piece holds until the next is asked for.

        Raises `ConfigurationError` for a part's file that was changed since it was listed.
        """
        yield self._head
        for message in self._messages:
            yield message.header
            with contextlib.closing(self._segments(message)) as segments:
                yield from segments

    def _segments(self, message: _Message) -> Generator[memoryview]:
        with message.reading() as take:
            yield from floe.encrypt_segments(
                self.data_key.reveal(), message.context, message.header, take, message.size, random_bytes=self._random_bytes
            )


@dataclass(frozen=True, kw_only=True)
class _Message:
    """One part: its message's header, and where its plaintext comes from."""

    header: bytes
    context: bytes
    source: bytes | PartSource = field(repr=False)

    @property
    def size(self) -> int:
        return len(self.source)

    @contextlib.contextmanager
    def reading(self) -> Generator[Callable[[int], bytes | memoryview]]:
        if not isinstance(self.source, bytes):
            with self.source.reading() as take:
                yield take
            return
        yield floe.in_order(memoryview(self.source))


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
    """`sealing`, with the whole package in memory."""
    begun = sealing(
        parts, owner=owner, run=run, round_nonce=round_nonce, workload=workload, confidential=confidential, version=version,
        segment=segment, random_bytes=random_bytes,
    )  # fmt: skip
    return SealedPackage(
        package=b"".join(bytes(piece) for piece in begun.pieces()),
        manifest=begun.manifest,
        manifest_sha256=begun.manifest_sha256,
        header_sha256=begun.header_sha256,
        data_key=begun.data_key,
        canary=begun.canary,
    )


def sealing(
    parts: Mapping[str, bytes | PartSource],
    *,
    owner: Owner,
    run: str,
    round_nonce: str,
    workload: Mapping[str, Json],
    confidential: bool = False,
    version: int = MANIFEST_VERSION,
    segment: int = floe.SEGMENT,
    random_bytes: Callable[[int], bytes] = os.urandom,
) -> Sealing:
    """Begin to seal `parts` and a fresh canary under a fresh key. `workload` is public: the manifest repeats it.

    Nothing is read yet: the manifest holds the hash of the header, which commits to the key of every part's segments.
    """
    if CANARY in parts:
        raise ConfigurationError(f"the part name {CANARY!r} is reserved for the canary; rename the part")
    key, canary, package_id = random_bytes(floe.KEY_BYTES), random_bytes(CANARY_BYTES), random_bytes(32).hex()
    plain: dict[str, bytes | PartSource] = {**parts, CANARY: canary}
    messages: list[_Message] = []
    for index, (name, source) in enumerate(plain.items()):
        context = part_context(package_id, name, index, len(plain), len(source))
        header = floe.message_header(key, context, segment=segment, random_bytes=random_bytes)
        messages.append(_Message(header=header, context=context, source=source))
    begins = head(package_id, segment, [(name, each.size, each.header) for name, each in zip(plain, messages, strict=True)])
    size = len(begins) + sum(floe.cipher_length(each.size, segment=segment) for each in messages)
    header_sha256 = header_digest(begins)
    claims: dict[str, Json] = {
        "iss": owner.kid,
        "package": package_id,
        "version": version,
        "run": run,
        "round_nonce": round_nonce,
        "header_sha256": header_sha256,
        "sealed_bytes": size,
        "parts": [{"name": name, "size": each.size} for name, each in zip(plain, messages, strict=True)],
        "workload": dict(workload),
        "confidential": confidential,
        "owner_hpke": hpke_text(owner.hpke_public),
    }
    return Sealing(
        manifest=owner.sign_manifest(claims),
        header_sha256=header_sha256,
        size=size,
        data_key=Secret(key),
        canary=Secret(canary),
        _head=begins,
        _messages=tuple(messages),
        _random_bytes=random_bytes,
    )


def read_manifest(manifest: str, *, owner: Ed25519PublicKey) -> dict[str, Json]:
    """The claims of a manifest `owner` signed. Raises `IntegrityError`."""
    claims = verify(manifest, key=owner, typ=TYP_MANIFEST)
    expect(claims, MANIFEST_SHAPE)
    if claims["iss"] != thumbprint(owner):
        raise IntegrityError("manifest", "iss")
    return claims
