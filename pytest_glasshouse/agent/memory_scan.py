"""Searches another process's memory for patterns, given as fingerprints and salted digests: the scanner holds no secret.

Memory is read into one locked buffer and processed in locked buffers; all are wiped after each scan. The caller judges the
copies found.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pytest_glasshouse.guest.memory import Arena
from pytest_glasshouse.wire.fingerprints import LONGEST, MARK_BITS, WINDOW, Pattern, digest, multipliers

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

BLOCK = 1 << 20
#: Bytes processed at once: several such arrays have to fit a processor's cache.
_PIECE = 1 << 17
_PAGE = 4096
_WORD = 8
#: The kernel's own pages in every process.
_KERNEL = ("[vvar]", "[vvar_vclock]", "[vsyscall]", "[vdso]")


class Memory(Protocol):
    """Another process's memory."""

    def ranges(self) -> list[tuple[int, int]]:
        """Start and end of every mapping to be searched, in order."""

    def read(self, address: int, into: memoryview) -> int:
        """Read from `address`; how many bytes came, 0 where nothing can be read."""


@dataclass(kw_only=True)
class ScanResult:
    """What one scan found: copies by the pattern's index, and how much was searched."""

    copies: Counter[int] = field(default_factory=Counter)
    scanned_bytes: int = 0
    unreadable_bytes: int = 0
    elapsed_ns: int = 0


class DescriptorMemory:
    """Memory read through descriptors of `/proc/self/mem` and `/proc/self/maps` that the process itself opened."""

    def __init__(self, mem: int, maps: int) -> None:
        self._mem, self._maps = mem, maps

    def ranges(self) -> list[tuple[int, int]]:
        return ranges_of(self._maps)

    def read(self, address: int, into: memoryview) -> int:
        try:
            return os.preadv(self._mem, [into], address)
        except OSError:
            return 0


def ranges_of(maps: int) -> list[tuple[int, int]]:
    """Mappings that can hold a secret: readable, and writable or anonymous (read-only pages of a file hold the file)."""
    os.lseek(maps, 0, os.SEEK_SET)
    text = b"".join(iter(lambda: os.read(maps, 1 << 16), b""))
    found = []
    for line in text.decode(errors="replace").splitlines():
        fields = line.split(maxsplit=5)
        path = fields[5].strip() if len(fields) > 5 else ""  # noqa: PLR2004
        if fields[1][0] != "r" or path in _KERNEL or path.startswith("/dev/nvidia"):
            continue
        if fields[1][1] != "w" and path.startswith("/"):
            continue
        start, end = (int(bound, 16) for bound in fields[0].split("-"))
        found.append((start, end))
    return found


def _joined(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Adjacent mappings joined: a copy may lie across their border."""
    joined: list[tuple[int, int]] = []
    for start, end in ranges:
        begin = joined.pop()[0] if joined and joined[-1][1] == start else start
        joined.append((begin, end))
    return joined


def scan(memory: Memory, patterns: Sequence[Pattern], salt: bytes, *, until: Collection[int] = ()) -> ScanResult:
    """Count the copies of every pattern in all of `memory`, at any alignment.

    With `until` (a control scan), stop as soon as each of these patterns was found, and begin with the smallest mappings:
    arenas are likely there.
    """
    found = ScanResult()
    began = time.monotonic_ns()
    search = _Search(patterns, salt)
    try:
        ranges = memory.ranges()
        for start, end in sorted(ranges, key=lambda each: each[1] - each[0]) if until else _joined(ranges):
            for held, final in _blocks(memory, start, end, search.buffer.view, found):
                search.count(held, found.copies, final=final)
                if until and found.copies.keys() >= set(until):
                    return found
        return found
    finally:
        search.close()
        found.elapsed_ns = time.monotonic_ns() - began


def _blocks(memory: Memory, start: int, end: int, buffer: memoryview, found: ScanResult) -> Iterator[tuple[int, bool]]:
    """Fill `buffer` block by block, each after the last bytes of the one before; bytes held, and whether a run ends."""
    carried, address = 0, start
    while address < end:
        wanted = min(BLOCK, end - address)
        came = memory.read(address, buffer[carried : carried + wanted])
        if came <= 0:
            if carried:
                yield carried, True
            carried = 0
            hole = min(_PAGE - address % _PAGE, end - address)
            found.unreadable_bytes += hole
            address += hole
            continue
        found.scanned_bytes += came
        address += came
        held = carried + came
        final = address >= end
        yield held, final
        carried = 0 if final else min(LONGEST - 1, held)
        buffer[:carried] = buffer[held - carried : held]


class _Search:
    """The work arrays of one scan. They hold content of the other process's memory: `close` wipes them."""

    def __init__(self, patterns: Sequence[Pattern], salt: bytes) -> None:
        import numpy as np

        self._np: Any = np
        self._patterns, self._salt = patterns, salt
        self._first, self._second = (np.uint64(number) for number in multipliers(salt))
        self._marks = np.zeros(1 << MARK_BITS, dtype=bool)
        self._by_mark: dict[int, list[int]] = {}
        for index, pattern in enumerate(patterns):
            self._marks[pattern.mark] = True
            self._by_mark.setdefault(pattern.mark, []).append(index)
        self.buffer = Arena(LONGEST + BLOCK + 4 * _WORD)
        self._bytes = np.frombuffer(self.buffer.view, dtype=np.uint8)
        words = _PIECE // _WORD + 2
        self._arenas = [Arena(words * _WORD) for _ in range(3)]
        self._words, self._one, self._two = (np.frombuffer(arena.view, dtype=np.uint64) for arena in self._arenas)
        self._hits = np.zeros(words, dtype=bool)
        self._shift = np.uint64(64 - MARK_BITS)

    def count(self, held: int, copies: Counter[int], *, final: bool) -> None:
        """Count copies that begin in the first `held` bytes; in a run that goes on, the last bytes wait for the next block."""
        limit = held - WINDOW + 1 if final else held - LONGEST + 1
        for at in range(0, max(limit, 0), _PIECE):
            starts = min(_PIECE, limit - at)
            if self._bytes[at : at + starts + WINDOW].any():
                for start, mark in self._candidates(at, starts):
                    self._confirm(start, mark, held, copies)

    def _candidates(self, at: int, starts: int) -> Iterator[tuple[int, int]]:
        """Offsets in the buffer at which a window has the fingerprint of a pattern, and the fingerprint."""
        np = self._np
        for shift in range(min(_WORD, starts)):
            count = (starts - shift + _WORD - 1) // _WORD
            begin = at + shift
            taken = self._bytes[begin : begin + (count + 1) * _WORD]
            # Copied to an aligned array: numpy would otherwise do so piecemeal, in memory of its own that is not wiped.
            self._words.view(np.uint8)[: len(taken)] = taken
            words, one, two = self._words[: count + 1], self._one[: count + 1], self._two[: count + 1]
            np.multiply(words, self._first, out=one)
            np.multiply(words, self._second, out=two)
            np.add(one[:-1], two[1:], out=one[:-1])
            np.right_shift(one, self._shift, out=one)
            hits = self._hits[:count]
            np.take(self._marks, one[:-1].view(np.int64), out=hits, mode="clip")
            if hits.any():
                yield from ((begin + int(index) * _WORD, int(one[index])) for index in np.flatnonzero(hits))

    def _confirm(self, start: int, mark: int, held: int, copies: Counter[int]) -> None:
        for index in self._by_mark[mark]:
            pattern = self._patterns[index]
            window = self.buffer.view[start : start + pattern.length]
            if start + pattern.length <= held and digest(self._salt, window) == pattern.digest:
                copies[index] += 1

    def close(self) -> None:
        del self._bytes, self._words, self._one, self._two
        self._hits[:] = False
        for arena in (self.buffer, *self._arenas):
            arena.close()
