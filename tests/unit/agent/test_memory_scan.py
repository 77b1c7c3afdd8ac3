"""The scanner finds every copy of a pattern, at any alignment, without holding the secret."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.agent.memory_scan import BLOCK, ScanResult, ranges_of, scan
from pytest_glasshouse.errors import ProtocolError
from pytest_glasshouse.guest.memory import Arena
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.wire.fingerprints import LONGEST, MARK_BITS, Pattern, Patterns, read_patterns
from tests.limits import HANG_S

if TYPE_CHECKING:
    from collections.abc import Mapping

BASE = 0x7F00_0000_0000
SEED = 20261120


class PretendMemory:
    """Mappings by address; addresses in `holes` cannot be read."""

    def __init__(self, mappings: Mapping[int, bytes], holes: tuple[int, ...] = ()) -> None:
        self._mappings, self._holes = dict(sorted(mappings.items())), holes

    def ranges(self) -> list[tuple[int, int]]:
        return [(start, start + len(content)) for start, content in self._mappings.items()]

    def read(self, address: int, into: memoryview) -> int:
        if any(hole <= address < hole + 4096 for hole in self._holes):
            return 0
        for start, content in self._mappings.items():
            if start <= address < start + len(content):
                end = min([hole for hole in self._holes if hole > address], default=address + len(into))
                piece = content[address - start : min(address + len(into), end) - start]
                into[: len(piece)] = piece
                return len(piece)
        return 0


def held(content: bytes) -> Arena:
    """In memory whose alignment is known."""
    arena = Arena(len(content))
    arena.view[:] = content
    return arena


@pytest.fixture
def noise() -> random.Random:
    return random.Random(SEED)


@pytest.fixture
def secret(noise: random.Random) -> bytes:
    return noise.randbytes(32)


@pytest.fixture
def make() -> Patterns:
    return Patterns(os.urandom(32))


def halves(make: Patterns, secret: bytes) -> list[Pattern]:
    arena = held(secret)
    return make.of_windows("half", arena.view)


def search(memory: PretendMemory, make: Patterns, patterns: list[Pattern]) -> ScanResult:
    return scan(memory, patterns, make.salt)


@pytest.mark.parametrize("shift", range(17))
def test_copy_is_found_at_every_alignment(shift: int, secret: bytes, make: Patterns, noise: random.Random) -> None:
    """A stray copy need not be aligned."""
    content = noise.randbytes(5000 + shift) + secret + noise.randbytes(4000)
    assert search(PretendMemory({BASE: content}), make, halves(make, secret)).copies == {0: 1, 1: 1}


def test_one_half_of_a_key_is_found_alone(secret: bytes, make: Patterns, noise: random.Random) -> None:
    """Saved vector registers hold half a key."""
    content = noise.randbytes(777) + secret[16:] + noise.randbytes(99)
    assert search(PretendMemory({BASE: content}), make, halves(make, secret)).copies == {1: 1}


@pytest.mark.parametrize("before_end", [1, 8, 15, 16, 31, LONGEST])
def test_copy_across_two_reads_and_two_mappings_is_found_once(
    before_end: int, secret: bytes, make: Patterns, noise: random.Random
) -> None:
    """Borders of blocks and mappings hide no copy and count none twice."""
    patterns = halves(make, secret)
    content = bytearray(noise.randbytes(2 * BLOCK + 4096))
    content[BLOCK - before_end : BLOCK - before_end + 32] = secret
    assert search(PretendMemory({BASE: bytes(content)}), make, patterns).copies == {0: 1, 1: 1}
    joined = {BASE: bytes(content[: BLOCK + 4096]), BASE + BLOCK + 4096: bytes(content[BLOCK + 4096 :])}
    assert search(PretendMemory(joined), make, patterns).copies == {0: 1, 1: 1}
    split = {BASE: bytes(content[:BLOCK]), BASE + BLOCK: bytes(content[BLOCK:])}
    assert search(PretendMemory(split), make, patterns).copies == {0: 1, 1: 1}


def test_copies_at_both_ends_of_a_mapping_and_many_of_them_are_counted(secret: bytes, make: Patterns) -> None:
    content = secret + bytes(10_000) + secret * 3 + bytes(17) + secret
    assert search(PretendMemory({BASE: content}), make, halves(make, secret)).copies == {0: 5, 1: 5}


def test_one_changed_bit_is_no_copy(secret: bytes, make: Patterns, noise: random.Random) -> None:
    changed = bytearray(secret)
    changed[3] ^= 1
    changed[20] ^= 128
    found = search(PretendMemory({BASE: noise.randbytes(100) + bytes(changed)}), make, halves(make, secret))
    assert found.copies == {}
    assert found.scanned_bytes == 132


def test_memory_that_cannot_be_read_is_counted_and_what_is_behind_it_searched(secret: bytes, make: Patterns) -> None:
    """The scan continues after a hole."""
    content = bytes(4096) + bytes(4096) + secret + bytes(4064)
    found = search(PretendMemory({BASE: content}, holes=(BASE + 4096,)), make, halves(make, secret))
    assert found.copies == {0: 1, 1: 1}
    assert (found.scanned_bytes, found.unreadable_bytes) == (8192, 4096)


def test_control_stops_when_everything_was_found(secret: bytes, make: Patterns, noise: random.Random) -> None:
    """The key is in use during the control scan, so it begins with small mappings and ends early."""
    memory = PretendMemory({BASE: noise.randbytes(4 * BLOCK), BASE + 64 * BLOCK: secret + bytes(4064)})
    patterns = halves(make, secret)
    found = scan(memory, patterns, make.salt, until=range(2))
    assert (found.copies, found.scanned_bytes) == ({0: 1, 1: 1}, 4096)
    assert scan(memory, patterns, make.salt).scanned_bytes == 4 * BLOCK + 4096


def test_patterns_do_not_hold_the_secrets_they_search_for(secret: bytes, make: Patterns) -> None:
    """They leave the leg, so they contain 20 bits of a window and a salted digest."""
    patterns = halves(make, secret)
    patterns_json = canonical([pattern.to_json() for pattern in patterns])
    assert all(
        secret[at : at + 4].hex().encode() not in patterns_json and secret[at : at + 4] not in patterns_json for at in range(29)
    )
    assert all(pattern.mark < 1 << MARK_BITS for pattern in patterns)
    other = halves(Patterns(os.urandom(32)), secret)
    assert {pattern.digest for pattern in other}.isdisjoint(pattern.digest for pattern in patterns)


#: Looks through all of its own memory, of which this process of many tests has far more.
_LOOKS = """
import os
from pytest_glasshouse.agent.memory_scan import DescriptorMemory, scan
from pytest_glasshouse.guest.memory import wipe_bytes
from pytest_glasshouse.wire.fingerprints import Patterns
from tests.unit.agent.test_memory_scan import held

make = Patterns(os.urandom(32))
original = os.urandom(4096)
arena = held(original)
wipe_bytes(original)
patterns = make.of_windows("canary", arena.view)
with open("/proc/self/maps", "rb") as maps, open("/proc/self/mem", "rb") as mem:
    memory = DescriptorMemory(mem.fileno(), maps.fileno())
    before = scan(memory, patterns, make.salt)
    arena.wipe()
    after = scan(memory, patterns, make.salt)
print(sorted(before.copies) == list(range(256)), dict(after.copies))
"""


def test_making_patterns_leaves_no_copy_in_the_process() -> None:
    """Otherwise the scan would find its own preparation."""
    done = subprocess.run([sys.executable, "-c", _LOOKS], capture_output=True, text=True, check=False, timeout=HANG_S)
    assert (done.stdout, done.stderr) == ("True {}\n", "")


def test_token_ids_need_a_longer_window_than_noise(make: Patterns) -> None:
    """Two small numbers side by side are everywhere; six are not."""
    ids = held(b"".join(number.to_bytes(8, "little") for number in range(300, 364)))
    noise = held(os.urandom(128))
    assert {pattern.length for pattern in make.of_samples("batch", [ids.view], pieces=8)} == {48}
    assert {pattern.length for pattern in make.of_samples("batch", [noise.view], pieces=8)} == {16}
    assert make.of_samples("batch", [held(bytes(512)).view], pieces=8) == []


def test_window_that_is_not_aligned_is_refused(make: Patterns) -> None:
    """numpy would work on a copy of it, and that copy would stay."""
    with pytest.raises(ValueError, match="multiple of 8"):
        make.of("key", held(bytes(64)).view[4:20])


@pytest.mark.parametrize(
    "changed",
    [{"length": 8}, {"length": 65}, {"mark": 1 << MARK_BITS}, {"mark": -1}, {"kind": 3}, {"digest": None}, {"mark": True}],
)
def test_pattern_of_another_shape_is_refused(changed: dict[str, Any], secret: bytes, make: Patterns) -> None:
    patterns_json = {**halves(make, secret)[0].to_json(), **changed}
    with pytest.raises(ProtocolError, match="pattern"):
        read_patterns({"salt": make.salt.hex(), "patterns": [patterns_json]})


def test_own_writable_memory_is_searched_and_the_kernels_pages_are_not() -> None:
    arena = Arena(1 << 20)
    with open("/proc/self/maps", "rb") as maps:  # noqa: PTH123
        ranges = ranges_of(maps.fileno())
        maps.seek(0)
        text = maps.read().decode()
    assert any(start <= arena._address < end for start, end in ranges)
    kernel = [line.split("-")[0] for line in text.splitlines() if line.endswith(("[vvar]", "[vdso]"))]
    assert not any(start <= int(address, 16) < end for address in kernel for start, end in ranges)
