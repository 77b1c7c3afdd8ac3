"""The way of a package onto a device: piece by piece through one small ring of host memory, so that the host never holds it.

Knows one arena of at most `RING_LIMIT` bytes: first the parts the host itself needs, then slots that are used in turn.
Refuses to use a slot again before the device has its content, and to leave anything in host or device memory when
something fails. Both legs come this way where the device is a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest.device_memory import zero_places
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.guest.opener import ALIGNMENT, checked_header, checked_message
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.package import CANARY, parse_header
from pytest_glasshouse.workloads.resident import Resident

if TYPE_CHECKING:
    from pytest_glasshouse.guest.device_memory import DeviceMemory
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.package import PackageHeader

RING_LIMIT = 256 * 1024 * 1024
#: Parts the host reads itself: the configuration, and what the scan looks for.
KEPT = frozenset({"config", CANARY})

Take = Callable[[int], memoryview]
Pieces = Callable[[Take], Generator[memoryview]]


@dataclass(kw_only=True)
class RingParts:
    """A package's parts: views of the arena, or on the device. Owes `close`, which may be called again."""

    arena: Arena
    parts: Mapping[str, memoryview | Resident]
    header: PackageHeader
    memory: DeviceMemory
    pinned: bool

    @property
    def host_bytes(self) -> int:
        """How much plaintext the host still holds."""
        return sum(len(part) for part in self.parts.values() if isinstance(part, memoryview))

    def close(self) -> None:
        """Zero what lies on the device, wipe the host's memory, give both back."""
        residents = [part for part in self.parts.values() if isinstance(part, Resident)]
        try:
            with contextlib.suppress(RuntimeError):
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
    """The ring for parts of the given sizes, made before any of them is there. `slot` is the largest piece that comes at once."""

    def __init__(self, sizes: Mapping[str, int], *, slot: int, memory: DeviceMemory, limit: int = RING_LIMIT) -> None:
        kept = sum(_aligned(size) for name, size in sizes.items() if name in KEPT)
        streamed = [size for name, size in sizes.items() if name not in KEPT]
        pieces = sum(max(1, -(-size // slot)) for size in streamed)  # an empty part is a piece, too
        step = _aligned(slot)
        count = min(pieces, (limit - kept) // step)
        if kept > limit or (pieces and count < 1):
            raise IntegrityError("pkg-format", f"a segment and what the host keeps do not fit into {limit} bytes")
        self.arena = Arena(kept + count * step)
        self.memory = memory
        self.pinned = memory.pin(self.arena)
        self.locked = self.arena.locked or self.pinned
        self.size = len(self.arena)
        self._slots = [self.arena.view[kept + place * step : kept + place * step + slot] for place in range(count)]
        # Free again when everything has arrived: through it a little may be read back.
        self._staging = self.arena.view[kept:]
        self._busy: list[Callable[[], object]] = [lambda: None] * count
        self._next = 0
        self._kept_bytes = 0
        self._placed: list[Any] = []
        self._parts: dict[str, memoryview | Resident] = {}

    def keep(self, name: str, size: int) -> memoryview:
        """Host memory for a part the host reads itself."""
        view = self.arena.view[self._kept_bytes : self._kept_bytes + size]
        self._kept_bytes += _aligned(size)
        self._parts[name] = view
        return view

    def carry(self, name: str, size: int, pieces: Pieces) -> None:
        """A part onto the device. `pieces` is given where to put a piece of how many bytes, and yields each that is good."""
        place = self.memory.place(size)
        self._placed.append(place)
        at = 0
        with contextlib.closing(pieces(self._take)) as coming:
            for piece in coming:
                self._busy[self._next] = self.memory.copy(piece, place, at)
                self._next = (self._next + 1) % len(self._slots)
                at += len(piece)
        self._parts[name] = Resident(place, self._staging)

    def _take(self, size: int) -> memoryview:
        self._busy[self._next]()
        return self._slots[self._next][:size]

    def arrived(self) -> dict[str, memoryview | Resident]:
        """Every part, now that all of it is on the device and nothing of it left in a slot."""
        self.memory.synchronize()
        for slot in self._slots:
            slot[:] = bytes(len(slot))
        return self._parts

    def abandon(self) -> None:
        """Leave nothing anywhere. The order matters: a copy under way would bring back what was zeroed."""
        try:
            with contextlib.suppress(RuntimeError):
                self.memory.synchronize()
            zero_places(self.memory, self._placed)
            self._placed.clear()
            self._parts.clear()
            with contextlib.suppress(RuntimeError):
                self.memory.release()
        finally:
            self.arena.wipe()


def ring_for_package(package: floe.Buffer, memory: DeviceMemory, *, limit: int = RING_LIMIT) -> Ring:
    """A ring for `package` by its header's own word; the smallest for one without a good header, which will not open."""
    try:
        header = parse_header(package)
        return Ring(_sizes(header), slot=_slot(header), memory=memory, limit=limit)
    except IntegrityError:
        return Ring({}, slot=1, memory=memory, limit=limit)


def carry_package(package: floe.Buffer, data_key: LockedSecret, manifest: Mapping[str, Json], ring: Ring) -> RingParts:
    """Open `package` through `ring`. Raises what `open_package` raises; nothing is left in host or device memory then."""
    scratch = LockedSecret(floe.scratch_bytes())
    whole = False
    try:
        header = checked_header(package, manifest)
        for index, part in enumerate(header.parts):
            message, aad = checked_message(package, header, index), header.context(index)
            if part.name in KEPT:
                floe.decrypt_into(data_key.view, aad, message, ring.keep(part.name, part.size), scratch=scratch.view)
            else:
                ring.carry(part.name, part.size, _segments(data_key, aad, message, scratch))
        parts = ring.arrived()
        carried = RingParts(arena=ring.arena, parts=parts, header=header, memory=ring.memory, pinned=ring.pinned)
        whole = True
    finally:
        scratch.close()
        if not whole:
            ring.abandon()
    return carried


def carry_material(material: Mapping[str, memoryview], memory: DeviceMemory) -> dict[str, memoryview | Resident]:
    """The raw leg's parts, which lie in the clear, the same way."""
    slot = floe.SEGMENT - floe.SEGMENT_OVERHEAD
    ring = Ring({name: len(part) for name, part in material.items()}, slot=slot, memory=memory)
    whole = False
    try:
        for name, part in material.items():
            if name in KEPT:
                ring.keep(name, len(part))[:] = part
            else:
                ring.carry(name, len(part), _copies(part, slot))
        parts = ring.arrived()
        whole = True
    finally:
        if not whole:
            ring.abandon()
    return parts


def _segments(data_key: LockedSecret, aad: bytes, message: memoryview, scratch: LockedSecret) -> Pieces:
    return lambda take: floe.decrypt_segments(data_key.view, aad, message, take, scratch=scratch.view)


def _copies(part: memoryview, slot: int) -> Pieces:
    def pieces(take: Take) -> Generator[memoryview]:
        for at in range(0, len(part), slot):
            piece = part[at : at + slot]
            room = take(len(piece))
            room[:] = piece
            yield room

    return pieces


def _sizes(header: PackageHeader) -> dict[str, int]:
    return {part.name: part.size for part in header.parts}


def _slot(header: PackageHeader) -> int:
    largest = max((part.size for part in header.parts if part.name not in KEPT), default=1)
    return max(1, min(header.segment - floe.SEGMENT_OVERHEAD, largest))


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
