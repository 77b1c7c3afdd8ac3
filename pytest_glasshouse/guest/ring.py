"""Moves a package to a device piece by piece through a small ring of host memory, so that the host never holds all of it.

One arena of at most `RING_LIMIT` bytes: first the parts that the host itself reads, then slots used in turn. A slot is not
reused before the device has its content, and after a failure nothing is left in host or device memory. Both legs use it
where the device is a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest.device_memory import zero_tensors
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.guest.opener import Release, aligned, checked_header, checked_message, consumed_at
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.package import CANARY, SEALED_FILE, parse_header
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from pytest_glasshouse.guest.device_memory import DeviceMemory
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.package import PackageHeader

RING_LIMIT = 256 * 1024 * 1024
#: Parts that the host itself reads: the configuration, and the canary for the scan. A sealed model's small files are, too.
HOST_PARTS = frozenset({"config", CANARY})

Take = Callable[[int], memoryview]
Needed = Callable[[int], None]
Pieces = Callable[[Take], Generator[memoryview]]


def on_host(name: str) -> bool:
    """Whether the host itself reads this part."""
    return name in HOST_PARTS or name.startswith(SEALED_FILE)


@dataclass(kw_only=True)
class RingParts:
    """A package's parts: views of the arena, or on the device. The caller must `close` it; again does no harm."""

    arena: Arena
    parts: Mapping[str, memoryview | Resident]
    header: PackageHeader
    memory: DeviceMemory
    pinned: bool

    @property
    def host_bytes(self) -> int:
        """Plaintext that the host still holds, in bytes."""
        return sum(len(part) for part in self.parts.values() if isinstance(part, memoryview))

    @property
    def locked(self) -> bool:
        """Whether the host's memory is never swapped out."""
        return self.arena.locked or self.pinned

    def close(self) -> None:
        """Zero the device's memory, wipe the host's, free both. Where the device fails, raises `RuntimeError` at the end."""
        residents = [part for part in self.parts.values() if isinstance(part, Resident)]
        try:
            for part in residents:
                part.close()
            self.memory.synchronize()
            self.memory.release()
        finally:
            self.arena.wipe()
            for view in self.parts.values():
                with contextlib.suppress(BufferError):
                    if isinstance(view, memoryview):
                        view.release()
            if self.pinned:
                self.pinned = False
                self.memory.unpin(self.arena)
            self.arena.close()


class Ring:
    """A ring for parts of the given sizes. `slot` is the size of the largest piece.

    Raises `IntegrityError` where they do not fit into `limit`, and `OutOfMemoryError` where the device has no room for them.
    """

    def __init__(self, sizes: Mapping[str, int], *, slot: int, memory: DeviceMemory, limit: int = RING_LIMIT) -> None:
        host = sum(aligned(size) for name, size in sizes.items() if on_host(name))
        streamed = [size for name, size in sizes.items() if not on_host(name)]
        pieces = sum(max(1, -(-size // slot)) for size in streamed)  # an empty part is a piece, too
        step = aligned(slot)
        count = min(pieces, (limit - host) // step)
        if host > limit or (pieces and count < 1):
            raise IntegrityError("pkg-format", f"a segment and the host's parts do not fit into {limit} bytes")
        memory.require_room(sum(streamed))
        self.arena = Arena(host + count * step)
        self.memory = memory
        self.pinned = memory.pin(self.arena)
        self.size = len(self.arena)
        self._slots = [self.arena.view[host + index * step : host + index * step + slot] for index in range(count)]
        # Free when the transfer is over: a little may be read back through it.
        self._staging = self.arena.view[host:]
        self._busy: list[Callable[[], object]] = [lambda: None] * count
        self._next = 0
        self._host_bytes = 0
        self._tensors: list[Any] = []
        self._parts: dict[str, memoryview | Resident] = {}

    @property
    def locked(self) -> bool:
        """Whether the host's memory is never swapped out: locked by the kernel, or by the device's driver."""
        return self.arena.locked or self.pinned

    def host_part(self, name: str, size: int) -> memoryview:
        """Host memory for a part that the host itself reads."""
        view = self.arena.view[self._host_bytes : self._host_bytes + size]
        self._host_bytes += aligned(size)
        self._parts[name] = view
        return view

    def stream(self, name: str, size: int, pieces: Pieces) -> None:
        """Move a part to the device. `pieces` calls its argument for a slot of the size it needs, and yields each filled slot."""
        tensor = self.memory.allocate(size)
        self._tensors.append(tensor)
        at = 0
        with contextlib.closing(pieces(self._take)) as filled:
            for piece in filled:
                self._busy[self._next] = self.memory.copy(piece, tensor, at)
                self._next = (self._next + 1) % len(self._slots)
                at += len(piece)
        self._parts[name] = Resident(tensor, self._staging)

    def _take(self, size: int) -> memoryview:
        self._busy[self._next]()
        return self._slots[self._next][:size]

    def finish(self) -> dict[str, memoryview | Resident]:
        """Wait for the device, zero the slots, and return every part."""
        self.memory.synchronize()
        for slot in self._slots:
            slot[:] = bytes(len(slot))
        return self._parts

    def abandon(self) -> None:
        """Wipe device and host memory. The order matters: a copy under way would overwrite the zeros."""
        try:
            with contextlib.suppress(RuntimeError):
                self.memory.synchronize()
            zero_tensors(self.memory, self._tensors)
            self._tensors.clear()
            self._parts.clear()
            with contextlib.suppress(RuntimeError):
                self.memory.release()
        finally:
            self.arena.wipe()
            if self.pinned:
                self.pinned = False
                self.memory.unpin(self.arena)


def ring_for_package(package: floe.Buffer, memory: DeviceMemory, *, limit: int = RING_LIMIT) -> Ring:
    """A ring for `package`, sized by its unverified header; the smallest where the header is malformed and will not open."""
    try:
        header = parse_header(package)
        return Ring(_sizes(header), slot=_slot(header), memory=memory, limit=limit)
    except IntegrityError:
        return Ring({}, slot=1, memory=memory, limit=limit)


def open_package_to_device(
    package: floe.Buffer,
    data_key: LockedSecret,
    manifest: Mapping[str, Json],
    ring: Ring,
    *,
    release: Release | None = None,
    needed: Needed = lambda _end: None,
) -> RingParts:
    """Open `package` through `ring`. Raises what `open_package` raises; then nothing is left in host or device memory.

    `needed` is called before the package is read up to that many bytes, and returns when they are there.
    """
    scratch = LockedSecret(floe.scratch_bytes())
    whole = False
    try:
        header = checked_header(package, manifest)
        for index, part in enumerate(header.parts):
            at = header.body + part.offset
            needed(at + (part.length if on_host(part.name) else floe.HEADER_BYTES))
            message, aad = checked_message(package, header, index), header.context(index)
            if on_host(part.name):
                floe.decrypt_into(data_key.view, aad, message, ring.host_part(part.name, part.size), scratch=scratch.view)
            else:
                ring.stream(
                    part.name,
                    part.size,
                    _segments(data_key, aad, message, scratch, consumed_at(release, header, index), _after(needed, at)),
                )
        parts = ring.finish()
        opened = RingParts(arena=ring.arena, parts=parts, header=header, memory=ring.memory, pinned=ring.pinned)
        whole = True
    finally:
        scratch.close()
        if not whole:
            ring.abandon()
    return opened


def copy_material_to_device(material: Mapping[str, memoryview], memory: DeviceMemory) -> dict[str, memoryview | Resident]:
    """Move the raw leg's plaintext parts to the device through a ring of the same kind."""
    slot = floe.SEGMENT - floe.SEGMENT_OVERHEAD
    ring = Ring({name: len(part) for name, part in material.items()}, slot=slot, memory=memory)
    whole = False
    try:
        for name, part in material.items():
            if on_host(name):
                ring.host_part(name, len(part))[:] = part
            else:
                ring.stream(name, len(part), _copies(part, slot))
        parts = ring.finish()
        whole = True
    finally:
        if not whole:
            ring.abandon()
    return parts


def _after(needed: Needed, at: int) -> Needed:
    return lambda end: needed(at + end)


def _segments(
    data_key: LockedSecret, aad: bytes, message: memoryview, scratch: LockedSecret, consumed: Release | None, needed: Needed
) -> Pieces:
    return lambda take: floe.decrypt_segments(
        data_key.view, aad, message, take, scratch=scratch.view, consumed=consumed, needed=needed
    )


def _copies(part: memoryview, slot: int) -> Pieces:
    def pieces(take: Take) -> Generator[memoryview]:
        for at in range(0, len(part), slot):
            piece = part[at : at + slot]
            target = take(len(piece))
            target[:] = piece
            yield target

    return pieces


def _sizes(header: PackageHeader) -> dict[str, int]:
    return {part.name: part.size for part in header.parts}


def _slot(header: PackageHeader) -> int:
    largest = max((part.size for part in header.parts if not on_host(part.name)), default=1)
    return max(1, min(header.segment - floe.SEGMENT_OVERHEAD, largest))
