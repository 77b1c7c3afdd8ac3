"""Opens the sealed package on the guest, straight into one arena, and seals the adapter that leaves.

Holds keys only during a call. Unauthenticated plaintext never gets out: on any failure the arena is wiped before the error
is raised. Nothing is written to disk.
"""

from __future__ import annotations

import contextlib
import ctypes
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

#: Parts begin at multiples of this, so that tensors of any dtype can lie on them.
ALIGNMENT = 4096
#: Linux: free a range of a file and keep its size.
_PUNCH_HOLE = 0x03
_libc = ctypes.CDLL(None, use_errno=True)

#: Told of a range of the package that is not needed any more.
Release = floe.Consumed
#: With more threads, memory bandwidth is the limit, not the cipher.
THREADS_LIMIT = 4


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The plaintext of a package: one arena and a view per part. The caller must drop every view, then `close` it."""

    arena: Arena
    parts: Mapping[str, memoryview]
    header: PackageHeader

    @property
    def host_bytes(self) -> int:
        """Plaintext that the host holds, in bytes."""
        return len(self.arena)

    @property
    def locked(self) -> bool:
        """Whether the host's memory is never swapped out."""
        return self.arena.locked

    def close(self) -> None:
        """Wipe the plaintext and free the memory. May be called again."""
        self.arena.wipe()
        for view in self.parts.values():
            with contextlib.suppress(BufferError):  # a tensor still lies on it: the memory stays mapped, wiped
                view.release()
        self.arena.close()


def aligned(size: int) -> int:
    """`size` rounded up to `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def map_file(fd: int, *, whole: bool = True) -> memoryview:
    """A read-only view of a file, every page mapped at once: page faults one by one would cost more than decrypting.

    Not so of a file that is not there as a `whole` yet: mapping a page of it would take memory.
    """
    size = os.fstat(fd).st_size
    populate = getattr(mmap, "MAP_POPULATE", 0) if whole else 0
    return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_SHARED | populate, prot=mmap.PROT_READ) if size else b"")


def releasing(fd: int) -> Release:
    """A function that frees a memory file's pages within a range, so that ciphertext and plaintext never fill memory together.

    What was freed reads zeros. The caller owns `fd`. Where the system frees nothing, nothing is lost but the memory.
    """
    ended: set[int] = set()

    def release(start: int, end: int) -> None:
        # A page that this range shares with the one before it is not needed any more either.
        follows = start in ended
        ended.discard(start)
        ended.add(end)
        first = start // ALIGNMENT * ALIGNMENT if follows else aligned(start)
        last = end // ALIGNMENT * ALIGNMENT
        if last > first:
            _libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_long(first), ctypes.c_long(last - first))

    return release


def unseal_key(sealed: str, *, result_token: str, manifest_sha256: str, private: X25519PrivateKey) -> LockedSecret:
    """The data key that the server sealed to the leg's ephemeral key, in locked memory. Raises `IntegrityError("sealed")`."""
    key: bytes | None = None
    try:
        key = unsealed(unb64u(sealed), private=private, info=release_info(result_token, manifest_sha256))
    except IntegrityError:
        key = None
    if key is None or len(key) != floe.KEY_BYTES:
        raise IntegrityError("sealed", "not sealed to this key, for this result and this package")
    return LockedSecret.take(key)


def arena_bytes(package: floe.Buffer) -> int:
    """Size of the arena for `package`, by its unverified header; 0 where the header is malformed and will not open."""
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
    release: Release | None = None,
) -> Opened:
    """Open `package`, whose header must be the one that `manifest` (verified claims) names.

    Uses `threads` threads (default: one per processor, up to `THREADS_LIMIT`) and `arena`, of `arena_bytes(package)` (default:
    a new one). Raises `IntegrityError`: `pkg-format`, `pkg-header`, `pkg-length`, `pkg-commit` or `pkg-integrity`; then no
    plaintext is left behind. The caller must wipe `data_key`. `release` is told of ciphertext that is not needed any more.
    """
    header = checked_header(package, manifest)
    starts, size = _layout(header)
    workers = threads or min(THREADS_LIMIT, len(os.sched_getaffinity(0)))
    arena = Arena(size) if arena is None else arena
    scratch = LockedSecret(floe.scratch_bytes(workers))
    parts: dict[str, memoryview] = {}
    whole = False
    try:
        for index, part in enumerate(header.parts):
            message = checked_message(package, header, index)
            view = arena.view[starts[index] : starts[index] + part.size]
            floe.decrypt_into(
                data_key.view, header.context(index), message, view, scratch=scratch.view, threads=workers,
                consumed=consumed_at(release, header, index),
            )  # fmt: skip
            parts[part.name] = view
        whole = True
    finally:
        scratch.close()
        if not whole:
            arena.wipe()
    return Opened(arena=arena, parts=parts, header=header)


def consumed_at(release: Release | None, header: PackageHeader, index: int) -> Release | None:
    """`release` for ranges of one part's message in place of the package's."""
    if release is None:
        return None
    at = header.body + header.parts[index].offset
    return lambda start, end: release(at + start, at + end)


def checked_header(package: floe.Buffer, manifest: Mapping[str, Json]) -> PackageHeader:
    """The package's header, which must be the one that the manifest names."""
    header = parse_header(package)
    if header.sha256 != manifest.get("header_sha256"):
        raise IntegrityError("pkg-header", "not the header the manifest names")
    return header


def checked_message(package: floe.Buffer, header: PackageHeader, index: int) -> memoryview:
    """The message of one part, which must begin with the header's commitment: that binds every byte of it."""
    part = header.parts[index]
    message = memoryview(package).cast("B")[header.body + part.offset : header.body + part.offset + part.length]
    if bytes(message[: floe.HEADER_BYTES]).hex() != part.commit:
        raise IntegrityError("pkg-commit", part.name)
    if floe.segment_length(message) != header.segment:
        raise IntegrityError("pkg-format", "segment")
    return message


def _layout(header: PackageHeader) -> tuple[list[int], int]:
    """The offset of each part in an arena, and the arena's size."""
    starts: list[int] = []
    size = 0
    for part in header.parts:
        starts.append(size)
        size += aligned(part.size)
    return starts, size


@contextlib.contextmanager
def derived_keys(package: floe.Buffer, data_key: LockedSecret, header: PackageHeader) -> Iterator[list[memoryview]]:
    """The keys that opening derived from `data_key`, derived again per part in locked memory; wiped on leaving."""
    body = memoryview(package).cast("B")[header.body :]
    derived = LockedSecret(floe.scratch_bytes() * len(header.parts))
    try:
        yield [
            floe.derive_keys(
                data_key.view,
                header.context(index),
                body[part.offset : part.offset + part.length],
                derived.view[index * floe.scratch_bytes() : (index + 1) * floe.scratch_bytes()],
            )
            for index, part in enumerate(header.parts)
        ]
    finally:
        derived.close()


def seal_adapter(adapter: bytes, *, manifest: Mapping[str, Json], manifest_sha256: str, nonce: str) -> bytes:
    """The adapter sealed to the owner that the manifest names. It leaves the guest in no other form."""
    return SUITE.encrypt(adapter, hpke_key(str(manifest.get("owner_hpke"))), info=adapter_info(manifest_sha256, nonce))
