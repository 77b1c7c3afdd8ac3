"""A package moved to a device through a small ring: the bytes are the same, the host never holds more, nothing is left.

The device is torch's CPU behind the interface that a GPU has: real bytes, the same code. Where torch has a CUDA device, every test
runs on that as well (marker `cuda`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest import ring
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import LockedSecret
from pytest_glasshouse.guest.ring import Ring, RingParts, copy_material_to_device, open_package_to_device, ring_for_package
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest, seal
from pytest_glasshouse.wire.package import CANARY
from pytest_glasshouse.workloads.base import DeviceName
from pytest_glasshouse.workloads.resident import Resident

pytestmark = pytest.mark.torch

OWNER = Owner.generate()
SEGMENT = 4096 + 32
PARTS = {"config": b'{"layers":2}', "empty": b"", "train": bytes(range(256)) * 150, "initial": b"every good boy " * 900}
#: Room for the host's parts and three slots; the parts need fourteen.
LIMIT = 2 * 4096 + 3 * 4096


class WatchedMemory(TorchMemory):
    """A device; it remembers every tensor it allocated, and how many copies it made."""

    on: ClassVar[DeviceName] = "cpu"

    def __init__(self) -> None:
        super().__init__(self.on)
        self.tensors: list[Any] = []
        self.copies = 0

    def allocate(self, size: int) -> Any:
        self.tensors.append(super().allocate(size))
        return self.tensors[-1]

    def copy(self, piece: memoryview, tensor: Any, at: int) -> Callable[[], object]:
        self.copies += 1
        return super().copy(piece, tensor, at)


class LateMemory(WatchedMemory):
    """A device that copies only when it is waited for, as a busy one may."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[Callable[[], object]] = []

    def copy(self, piece: memoryview, tensor: Any, at: int) -> Callable[[], object]:
        done: list[bool] = []

        def late() -> None:
            if not done:
                done.append(True)
                super(LateMemory, self).copy(piece, tensor, at)

        self._waiting.append(late)
        return late

    def synchronize(self) -> None:
        for late in self._waiting:
            late()


class FailingMemory(WatchedMemory):
    """A device that stops working at its third copy."""

    def copy(self, piece: memoryview, tensor: Any, at: int) -> Callable[[], object]:
        if self.copies == 3:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().copy(piece, tensor, at)


@pytest.fixture(autouse=True, params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WatchedMemory, "on", request.param)


def sealed_of(parts: dict[str, bytes] = PARTS, segment: int = SEGMENT) -> SealedPackage:
    return seal(parts, owner=OWNER, run="r", round_nonce="00" * 32, workload={}, segment=segment)


def opened(
    sealed: SealedPackage, memory: WatchedMemory, *, package: bytes | None = None, limit: int = LIMIT
) -> tuple[RingParts, Ring]:
    content = sealed.package if package is None else package
    target = ring_for_package(content, memory, limit=limit)
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    try:
        return open_package_to_device(content, key, read_manifest(sealed.manifest, owner=OWNER.public), target), target
    finally:
        key.close()


def plain(parts: Any) -> dict[str, bytes]:
    return {name: bytes(part) for name, part in parts.items()}


@pytest.mark.parametrize("kind", [WatchedMemory, LateMemory], ids=["at-once", "late"])
def test_what_was_sealed_arrives_through_a_ring_of_a_few_slots(kind: type[WatchedMemory]) -> None:
    """A slot that is reused too early would copy the next segment twice."""
    sealed, memory = sealed_of(), kind()
    found, target = opened(sealed, memory)
    assert len(target.arena) <= LIMIT
    assert len(target._slots) == 3
    assert memory.copies == 14 + 1  # and one of nothing, for the part that is empty
    assert plain(found.parts) == {**PARTS, CANARY: sealed.canary.reveal()}
    assert {name for name, part in found.parts.items() if not isinstance(part, Resident)} == {"config", CANARY}
    found.close()


def test_the_host_holds_only_what_it_needs_once_all_has_arrived() -> None:
    """The slots held the last training data on the host."""
    found, target = opened(sealed_of(), WatchedMemory())
    held = bytes(target.arena.view)
    assert PARTS["config"] in held
    assert all(piece not in held for piece in (PARTS["train"][:32], PARTS["train"][-32:], PARTS["initial"][-32:]))
    assert found.host_bytes == len(PARTS["config"]) + 256
    found.close()


def test_the_limit_holds_while_it_is_filled() -> None:
    """For any size of package."""
    sizes = {"config": 12, "train": 10 * ring.RING_LIMIT}
    arena = Ring(sizes, slot=4 * 1024 * 1024, memory=WatchedMemory()).arena
    assert ring.RING_LIMIT - 8 * 1024 * 1024 < len(arena) <= ring.RING_LIMIT == 256 * 1024 * 1024
    arena.close()


def test_closing_zeroes_the_device_and_the_host() -> None:
    memory = WatchedMemory()
    found, target = opened(sealed_of(), memory)
    view = target.arena.view
    assert sum(int(tensor.sum()) for tensor in memory.tensors) > 0
    leased = memoryview(view)  # a view is still held: the memory stays mapped, wiped
    found.close()
    found.close()
    assert [int(tensor.sum()) for tensor in memory.tensors] == [0] * len(memory.tensors)
    assert not any(leased)


def test_a_device_that_fails_leaves_nothing() -> None:
    memory, sealed = FailingMemory(), sealed_of()
    target = ring_for_package(sealed.package, memory, limit=LIMIT)
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        open_package_to_device(sealed.package, key, read_manifest(sealed.manifest, owner=OWNER.public), target)
    assert not any(target.arena.view)
    assert [int(tensor.sum()) for tensor in memory.tensors] == [0] * len(memory.tensors)


@pytest.mark.parametrize("limit", [2 * 4096, 4096, 0])
def test_a_package_whose_segments_do_not_fit_is_refused(limit: int) -> None:
    """It is not opened in a larger ring."""
    with pytest.raises(IntegrityError, match="pkg-format"):
        Ring({"config": 10, CANARY: 10, "train": 9000}, slot=4096, memory=WatchedMemory(), limit=limit)


def test_a_package_without_a_good_header_gets_the_smallest_ring_and_does_not_open() -> None:
    """The ring is made before the package is verified: a malformed header must not set its size."""
    sealed = sealed_of()
    with pytest.raises(IntegrityError):
        opened(sealed, WatchedMemory(), package=b"no package at all")


PART_MAPS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_.-]{0,8}", fullmatch=True), st.binary(max_size=400), min_size=1, max_size=4
)
FAST = settings(deadline=None, database=None, max_examples=60, suppress_health_check=list(HealthCheck))


def some(parts: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in parts.items() if name != CANARY} or {"part": b""}


@FAST
@given(PART_MAPS, st.integers(33, 600), st.integers(1, 4))
def test_any_package_is_moved_whole(parts: dict[str, bytes], segment: int, slots: int) -> None:
    sealed = sealed_of(some(parts), segment)
    host_bytes = 2 * 4096
    found, target = opened(sealed, LateMemory(), limit=host_bytes + slots * 4096)
    assert len(target.arena) <= host_bytes + slots * 4096
    assert plain(found.parts) == {**some(parts), CANARY: sealed.canary.reveal()}
    found.close()


@FAST
@given(PART_MAPS, st.integers(33, 600), st.data())
def test_one_thing_changed_is_refused_and_leaves_nothing(parts: dict[str, bytes], segment: int, data: st.DataObject) -> None:
    sealed = sealed_of(some(parts), segment)
    changed = bytearray(sealed.package)
    at = data.draw(st.integers(0, len(changed) - 1))
    what = data.draw(st.sampled_from(("byte", "cut", "longer", "removed")))
    if what == "byte":
        changed[at] ^= data.draw(st.integers(1, 255))
    elif what == "cut":
        del changed[at:]
    elif what == "longer":
        changed.extend(data.draw(st.binary(min_size=1, max_size=40)))
    else:
        del changed[at]
    memory = LateMemory()
    target = ring_for_package(bytes(changed), memory, limit=5 * 4096)
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    with pytest.raises(IntegrityError):
        open_package_to_device(bytes(changed), key, read_manifest(sealed.manifest, owner=OWNER.public), target)
    key.close()
    assert not any(target.arena.view)
    assert [int(each.sum()) for each in memory.tensors] == [0] * len(memory.tensors)


def test_the_raw_legs_material_goes_the_same_way() -> None:
    """Both legs use one loader."""
    memory = WatchedMemory()
    parts = copy_material_to_device({name: memoryview(data) for name, data in PARTS.items()}, memory)
    assert plain(parts) == PARTS
    assert {name for name, part in parts.items() if isinstance(part, Resident)} == {"empty", "train", "initial"}


def test_bytes_read_back_fit_the_ring() -> None:
    found, _ = opened(sealed_of(), WatchedMemory())
    part = found.parts["train"]
    assert isinstance(part, Resident)
    assert bytes(part.read(100, 200)) == PARTS["train"][100:200]
    with pytest.raises(IntegrityError, match="read back"):
        part.read(0, 3 * 4096)
    part.rewind()
    with pytest.raises(IntegrityError, match="read back"):
        part.read(len(part) - 1, len(part) + 1)
    found.close()
