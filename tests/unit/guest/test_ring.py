"""A package carried onto a device through a small ring: the same bytes arrive, the host never holds more, nothing stays behind.

The device is torch's CPU behind the same seam a GPU is behind: real bytes, the same code. Nothing here has run on CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest import ring
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.ring import Ring, RingParts, carry_material, carry_package, ring_for_package
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import Sealed, read_manifest, seal
from pytest_glasshouse.wire.package import CANARY
from pytest_glasshouse.workloads.resident import Resident

pytestmark = pytest.mark.torch

OWNER = Owner.generate()
SEGMENT = 4096 + 32
PARTS = {"config": b'{"layers":2}', "empty": b"", "train": bytes(range(256)) * 150, "initial": b"every good boy " * 900}
#: Room for what is kept and three slots; the parts need fourteen.
LIMIT = 2 * 4096 + 3 * 4096


class WatchedMemory(TorchMemory):
    """The CPU as a device; it remembers every place it gave, and how many copies it made."""

    def __init__(self) -> None:
        super().__init__("cpu")
        self.places: list[Any] = []
        self.copies = 0
        self.most_held = 0

    def place(self, size: int) -> Any:
        self.places.append(super().place(size))
        return self.places[-1]

    def copy(self, piece: memoryview, place: Any, at: int) -> Callable[[], object]:
        self.copies += 1
        return super().copy(piece, place, at)


class LateMemory(WatchedMemory):
    """A device that copies when it is waited for and not before, as a busy one does."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Callable[[], object]] = []

    def copy(self, piece: memoryview, place: Any, at: int) -> Callable[[], object]:
        done: list[bool] = []

        def late() -> None:
            if not done:
                done.append(True)
                super(LateMemory, self).copy(piece, place, at)

        self._waiting.append(late)
        return late

    def synchronize(self) -> None:
        for late in self._waiting:
            late()


class FailingMemory(WatchedMemory):
    """A device that stops working at its third copy."""

    def copy(self, piece: memoryview, place: Any, at: int) -> Callable[[], object]:
        if self.copies == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().copy(piece, place, at)


def sealed_of(parts: dict[str, bytes] = PARTS, segment: int = SEGMENT) -> Sealed:
    return seal(parts, owner=OWNER, run="r", round_nonce="00" * 32, workload={}, segment=segment)


def carried(sealed: Sealed, memory: WatchedMemory, *, package: bytes | None = None, limit: int = LIMIT) -> tuple[RingParts, Ring]:
    content = sealed.package if package is None else package
    way = ring_for_package(content, memory, limit=limit)
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    try:
        return carry_package(content, key, read_manifest(sealed.manifest, owner=OWNER.public), way), way
    finally:
        key.close()


def plain(parts: Any) -> dict[str, bytes]:
    return {name: bytes(part) for name, part in parts.items()}


@pytest.mark.parametrize("memory", [WatchedMemory(), LateMemory()], ids=["at-once", "late"])
def test_what_was_sealed_arrives_through_a_ring_of_a_few_slots(memory: WatchedMemory) -> None:
    """A slot that is used again before the device has it would bring the next segment twice."""
    sealed = sealed_of()
    found, way = carried(sealed, memory)
    assert len(way.arena) <= LIMIT
    assert len(way._slots) == 3
    assert memory.copies == 14 + 1  # and one of nothing, for the part that is empty
    assert plain(found.parts) == {**PARTS, CANARY: sealed.canary.reveal()}
    assert {name for name, part in found.parts.items() if not isinstance(part, Resident)} == {"config", CANARY}
    found.close()


def test_the_host_holds_only_what_it_needs_once_all_has_arrived() -> None:
    """The slots were the last place on the host where the training's data was."""
    found, way = carried(sealed_of(), WatchedMemory())
    held = bytes(way.arena.view)
    assert PARTS["config"] in held
    assert all(piece not in held for piece in (PARTS["train"][:32], PARTS["train"][-32:], PARTS["initial"][-32:]))
    assert found.host_bytes == len(PARTS["config"]) + 256
    found.close()


def test_the_limit_holds_while_it_is_filled() -> None:
    """Whatever the package's size: counted at every copy, in the one arena there is."""
    sizes = {"config": 12, "train": 10 * ring.RING_LIMIT}
    arena = Ring(sizes, slot=4 * 1024 * 1024, memory=WatchedMemory()).arena
    assert ring.RING_LIMIT - 8 * 1024 * 1024 < len(arena) <= ring.RING_LIMIT == 256 * 1024 * 1024
    arena.close()


def test_closing_zeroes_the_device_and_the_host() -> None:
    memory = WatchedMemory()
    found, way = carried(sealed_of(), memory)
    view = way.arena.view
    assert sum(int(place.sum()) for place in memory.places) > 0
    leased = memoryview(view)  # somebody still looks: the memory stays mapped, wiped
    found.close()
    found.close()
    assert [int(place.sum()) for place in memory.places] == [0] * len(memory.places)
    assert not any(leased)


def test_a_device_that_fails_leaves_nothing() -> None:
    memory, sealed = FailingMemory(), sealed_of()
    way = ring_for_package(sealed.package, memory, limit=LIMIT)
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        carry_package(sealed.package, key, read_manifest(sealed.manifest, owner=OWNER.public), way)
    assert not any(way.arena.view)
    assert [int(place.sum()) for place in memory.places] == [0] * len(memory.places)


@pytest.mark.parametrize("limit", [2 * 4096, 4096, 0])
def test_a_package_whose_segments_do_not_fit_is_refused(limit: int) -> None:
    """Not opened in a larger ring: the limit is what is promised."""
    with pytest.raises(IntegrityError, match="pkg-format"):
        Ring({"config": 10, CANARY: 10, "train": 9000}, slot=4096, memory=WatchedMemory(), limit=limit)


def test_a_package_without_a_good_header_gets_the_smallest_ring_and_does_not_open() -> None:
    """The ring is made before anything is verified: what cannot be read must not decide."""
    sealed = sealed_of()
    with pytest.raises(IntegrityError):
        carried(sealed, WatchedMemory(), package=b"no package at all")


PART_MAPS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), st.binary(max_size=400), min_size=1, max_size=4
)
FAST = settings(deadline=None, database=None, max_examples=60, suppress_health_check=list(HealthCheck))


def some(parts: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in parts.items() if name != CANARY} or {"part": b""}


@FAST
@given(PART_MAPS, st.integers(33, 600), st.integers(1, 4))
def test_any_package_arrives_whole(parts: dict[str, bytes], segment: int, slots: int) -> None:
    sealed = sealed_of(some(parts), segment)
    kept = 2 * 4096
    found, way = carried(sealed, LateMemory(), limit=kept + slots * 4096)
    assert len(way.arena) <= kept + slots * 4096
    assert plain(found.parts) == {**some(parts), CANARY: sealed.canary.reveal()}
    found.close()


@FAST
@given(PART_MAPS, st.integers(33, 600), st.data())
def test_one_thing_changed_does_not_arrive_and_leaves_nothing(parts: dict[str, bytes], segment: int, data: st.DataObject) -> None:
    sealed = sealed_of(some(parts), segment)
    changed = bytearray(sealed.package)
    place = data.draw(st.integers(0, len(changed) - 1))
    what = data.draw(st.sampled_from(("byte", "cut", "longer", "removed")))
    if what == "byte":
        changed[place] ^= data.draw(st.integers(1, 255))
    elif what == "cut":
        del changed[place:]
    elif what == "longer":
        changed.extend(data.draw(st.binary(min_size=1, max_size=40)))
    else:
        del changed[place]
    memory = LateMemory()
    way = ring_for_package(bytes(changed), memory, limit=5 * 4096)
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    with pytest.raises(IntegrityError):
        carry_package(bytes(changed), key, read_manifest(sealed.manifest, owner=OWNER.public), way)
    key.close()
    assert not any(way.arena.view)
    assert [int(each.sum()) for each in memory.places] == [0] * len(memory.places)


def test_the_raw_legs_material_goes_the_same_way() -> None:
    """One loader for both legs: what differs is where the bytes come from."""
    memory = WatchedMemory()
    parts = carry_material({name: memoryview(data) for name, data in PARTS.items()}, memory)
    assert plain(parts) == PARTS
    assert {name for name, part in parts.items() if isinstance(part, Resident)} == {"empty", "train", "initial"}


def test_no_more_is_read_back_than_the_ring_has_room_for() -> None:
    found, _ = carried(sealed_of(), WatchedMemory())
    part = found.parts["train"]
    assert isinstance(part, Resident)
    assert bytes(part.read(100, 200)) == PARTS["train"][100:200]
    with pytest.raises(IntegrityError, match="read back"):
        part.read(0, 3 * 4096)
    part.rewind()
    with pytest.raises(IntegrityError, match="read back"):
        part.read(len(part) - 1, len(part) + 1)
    found.close()
