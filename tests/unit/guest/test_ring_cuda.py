"""The ring on a device that behaves like CUDA: its own memory, late copies, pinning that is refused, blocks that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.errors import IntegrityError
from pytest_glasshouse.guest.device_memory import TorchMemory
from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.guest.ring import Ring, RingParts, copy_material_to_device, open_package_to_device, ring_for_package
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest
from pytest_glasshouse.wire.package import CANARY
from pytest_glasshouse.workloads.resident import Resident
from tests.unit.guest.test_ring import LIMIT, OWNER, PARTS, plain, sealed_of

if TYPE_CHECKING:
    from tests.fake_cuda import FakeCuda

pytestmark = pytest.mark.torch

NEEDLES = (PARTS["train"][:64], PARTS["initial"][:64], PARTS["initial"][-64:])


def open_on(sealed: SealedPackage, ring: Ring) -> RingParts:
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    try:
        return open_package_to_device(sealed.package, key, read_manifest(sealed.manifest, owner=OWNER.public), ring)
    finally:
        key.close()


def opened(gpu: FakeCuda) -> RingParts:
    sealed = sealed_of()
    return open_on(sealed, ring_for_package(sealed.package, TorchMemory("cuda"), limit=LIMIT))


def test_a_package_arrives_on_the_device_though_its_copies_are_late(gpu: FakeCuda) -> None:
    """A slot that is reused before its copy took place would arrive twice, and its own content never."""
    sealed = sealed_of()
    found = open_on(sealed, ring_for_package(sealed.package, TorchMemory("cuda"), limit=LIMIT))
    assert found.pinned
    assert plain(found.parts) == {**PARTS, CANARY: sealed.canary.reveal()}
    octets = [part.octets for part in found.parts.values() if isinstance(part, Resident)]
    assert [each.device.type for each in octets] == ["cuda"] * 3
    found.close()


def test_the_raw_legs_material_arrives_too(gpu: FakeCuda) -> None:
    parts = copy_material_to_device({name: memoryview(data) for name, data in PARTS.items()}, TorchMemory("cuda"))
    assert plain(parts) == PARTS


def test_closing_leaves_nothing_on_the_device_and_nothing_pinned(gpu: FakeCuda) -> None:
    found = opened(gpu)
    assert all(needle in gpu.content() for needle in NEEDLES)
    found.close()
    found.close()
    assert not any(gpu.content())
    assert gpu.live_bytes() < 4096
    assert gpu.pinned == {}


def test_a_refused_pin_does_not_fail_the_next_kernel(gpu: FakeCuda) -> None:
    """CUDA keeps the error of a refusal, and the next launch reports it as its own."""
    gpu.fails.add("pin")
    found = opened(gpu)
    assert not found.pinned
    assert plain(found.parts)["train"] == PARTS["train"]
    found.close()
    assert not any(gpu.content())


def test_the_fake_fails_the_next_kernel_after_a_refused_pin(gpu: FakeCuda) -> None:
    """So that the test above can fail."""
    import torch

    gpu.fails.add("pin")
    arena = Arena(4096)
    assert gpu.host_register(arena.address, arena.mapped_bytes) != 0
    with pytest.raises(torch.AcceleratorError, match="memory range is already mapped"):
        torch.ones(4, device="cuda")
    torch.ones(4, device="cuda")


def test_an_unpin_that_is_refused_does_not_fail_the_next_kernel(gpu: FakeCuda) -> None:
    import torch

    arena = Arena(4096)
    TorchMemory("cuda").unpin(arena)
    assert torch.ones(4, device="cuda").cpu().tolist() == [1.0] * 4


def test_abandoning_unpins_and_leaves_nothing(gpu: FakeCuda) -> None:
    """A page that stays registered is one that the driver still reaches."""
    sealed = sealed_of()
    changed = bytearray(sealed.package)
    changed[-40] ^= 1
    ring = ring_for_package(bytes(changed), TorchMemory("cuda"), limit=LIMIT)
    assert gpu.pinned == {ring.arena.address: ring.arena.mapped_bytes}
    key = LockedSecret.take(bytes(bytearray(sealed.data_key.reveal())))
    with pytest.raises(IntegrityError):
        open_package_to_device(bytes(changed), key, read_manifest(sealed.manifest, owner=OWNER.public), ring)
    key.close()
    assert gpu.pinned == {}
    assert not any(ring.arena.view)
    assert not any(gpu.content())


def test_memory_that_only_the_driver_locks_is_locked_in_the_ring_and_in_what_was_opened(gpu: FakeCuda) -> None:
    """The evidence is written from the one, the journal from the other."""
    sealed = sealed_of()
    ring = ring_for_package(sealed.package, TorchMemory("cuda"), limit=LIMIT)
    ring.arena.locked = False
    found = open_on(sealed, ring)
    assert (ring.locked, found.locked) == (True, True)
    found.close()


@pytest.mark.parametrize("pin", [True, False])
def test_memory_that_nobody_locks_is_called_so(gpu: FakeCuda, pin: bool) -> None:
    gpu.fails |= set() if pin else {"pin"}
    ring = Ring({"train": 100}, slot=100, memory=TorchMemory("cuda"))
    ring.arena.locked = False
    assert ring.locked is pin


def test_a_device_that_fails_to_zero_is_told_once_the_host_is_wiped(gpu: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal must not say that all was wiped."""
    found = opened(gpu)
    monkeypatch.setattr(gpu, "memset", lambda address, size: 700)
    held = memoryview(found.arena.view)
    with pytest.raises(RuntimeError, match="expected the device to zero"):
        found.close()
    assert not any(held)
    assert gpu.pinned == {}


def test_freed_blocks_are_zeroed_before_the_driver_gets_them(gpu: FakeCuda) -> None:
    """Each lies between blocks that tensors have, which stay as they are."""
    import torch

    tensors: list[Any] = [torch.full((3000,), 200 + number, dtype=torch.uint8, device="cuda") for number in range(12)]
    del tensors[::2]
    secret = torch.full((5 << 20,), 99, dtype=torch.uint8, device="cuda")
    del secret
    assert all(bytes([value]) * 64 in gpu.content() for value in (99, *range(200, 212)))
    TorchMemory("cuda").release()
    assert not any(bytes([value]) * 64 in gpu.content() for value in (99, *range(200, 212, 2)))
    assert [int(each.sum()) for each in tensors] == [3000 * value for value in range(201, 212, 2)]
    assert len(gpu.segments()) == 1
