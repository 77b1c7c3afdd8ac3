"""Opens the sealed package on the guest, straight into one arena, and seals what leaves.

Knows keys for the length of a call. Refuses to let unauthenticated plaintext out: on any failure the arena is wiped
before the error leaves. Refuses to write anything to disk.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import Json, unb64u
from pytest_glasshouse.wire.evidence import SUITE, adapter_info, hpke_key, release_info, unsealed
from pytest_glasshouse.wire.package import PackageHeader, parse_header

#: Parts begin at multiples of this, so that tensors can lie on them whatever their dtype.
ALIGNMENT = 4096
#: More threads than this wait for memory, not for the cipher.
THREADS_LIMIT = 4


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The plaintext of a package: one arena and a view per part. The caller owes `close` once every view is dropped."""

    arena: Arena
    parts: Mapping[str, memoryview]
    header: PackageHeader

    @property
    def host_bytes(self) -> int:
        """How much plaintext the host holds."""
        return len(self.arena)

    def close(self) -> None:
        """Wipe the plaintext and give the memory back. May be called again."""
        self.arena.wipe()
        for view in self.parts.values():
            with contextlib.suppress(BufferError):  # a tensor still lies on it: the memory stays mapped, wiped
                view.release()
        self.arena.close()


def map_file(fd: int) -> memoryview:
    """A read-only view of a file, every page of it mapped at once: one by one they would cost more than decrypting them."""
    size = os.fstat(fd).st_size
    populate = getattr(mmap, "MAP_POPULATE", 0)
    return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_SHARED | populate, prot=mmap.PROT_READ) if size else b"")


def unseal_key(sealed: str, *, result_token: str, manifest_sha256: str, private: X25519PrivateKey) -> LockedSecret:
    """The data key the server sealed to the leg's ephemeral key, in locked memory (`sealed` reason when it was not)."""
    key: bytes | None = None
    try:
        key = unsealed(unb64u(sealed), private=private, info=release_info(result_token, manifest_sha256))
    except IntegrityError:
        key = None
    if key is None or len(key) != floe.KEY_BYTES:
        raise IntegrityError("sealed", "not sealed to this key, for this result and this package")
    return LockedSecret.take(key)


def arena_bytes(package: floe.Buffer) -> int:
    """How much memory `package` will need, by its own word; 0 for one that has no good header and will not open."""
    try:
        return _layout(parse_header(package))[1]
    except IntegrityError:
        return 0


def open_package(
    package: floe.Buffer,
    data_key: LockedSecret,
    manifest: Mapping[str, Json],
    *,
    threads: int | None = None,
    arena: Arena | None = None,
) -> Opened:
    """Open `package`, whose header must be the one `manifest` (verified claims) names, with `threads` or as many as help.

    Into `arena`, of `arena_bytes(package)`, or into one made here. Raises `IntegrityError`: `pkg-format`, `pkg-header`,
    `pkg-length`, `pkg-commit` or `pkg-integrity`. No plaintext is left behind then. The caller still owes wiping `data_key`.
    """
    header = checked_header(package, manifest)
    starts, size = _layout(header)
    hands = threads or min(THREADS_LIMIT, len(os.sched_getaffinity(0)))
    arena = Arena(size) if arena is None else arena
    scratch = LockedSecret(floe.scratch_bytes(hands))
    parts: dict[str, memoryview] = {}
    whole = False
    try:
        for index, part in enumerate(header.parts):
            place = checked_message(package, header, index)
            view = arena.view[starts[index] : starts[index] + part.size]
            floe.decrypt_into(data_key.view, header.context(index), place, view, scratch=scratch.view, threads=hands)
            parts[part.name] = view
        whole = True
    finally:
        scratch.close()
        if not whole:
            arena.wipe()
    return Opened(arena=arena, parts=parts, header=header)


def checked_header(package: floe.Buffer, manifest: Mapping[str, Json]) -> PackageHeader:
    """The package's header, which must be the one the manifest names."""
    header = parse_header(package)
    if header.sha256 != manifest.get("header_sha256"):
        raise IntegrityError("pkg-header", "not the header the manifest names")
    return header


def checked_message(package: floe.Buffer, header: PackageHeader, index: int) -> memoryview:
    """The message of one part, which must begin as the header says: that binds every byte of it."""
    part = header.parts[index]
    place = memoryview(package).cast("B")[header.body + part.offset : header.body + part.offset + part.length]
    if bytes(place[: floe.HEADER_BYTES]).hex() != part.commit:
        raise IntegrityError("pkg-commit", part.name)
    if floe.segment_length(place) != header.segment:
        raise IntegrityError("pkg-format", "segment")
    return place


def _layout(header: PackageHeader) -> tuple[list[int], int]:
    """Where each part begins in an arena, and how long that is."""
    starts: list[int] = []
    size = 0
    for part in header.parts:
        starts.append(size)
        size += -(-part.size // ALIGNMENT) * ALIGNMENT
    return starts, size


@contextlib.contextmanager
def derived_keys(package: floe.Buffer, data_key: LockedSecret, header: PackageHeader) -> Iterator[list[memoryview]]:
    """The keys that opening derived from `data_key`, part by part, once more in locked memory; wiped on leaving."""
    body = memoryview(package).cast("B")[header.body :]
    room = LockedSecret(floe.scratch_bytes() * len(header.parts))
    try:
        yield [
            floe.derive_keys(
                data_key.view,
                header.context(index),
                body[part.offset : part.offset + part.length],
                room.view[index * floe.scratch_bytes() : (index + 1) * floe.scratch_bytes()],
            )
            for index, part in enumerate(header.parts)
        ]
    finally:
        room.close()


def seal_adapter(adapter: bytes, *, manifest: Mapping[str, Json], manifest_sha256: str, nonce: str) -> bytes:
    """The adapter sealed to the owner the manifest names. It leaves the guest in no other form."""
    return SUITE.encrypt(adapter, hpke_key(str(manifest.get("owner_hpke"))), info=adapter_info(manifest_sha256, nonce))
