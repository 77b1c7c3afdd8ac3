"""What opening a sealed package costs, as ratios of things measured in the same run.

    python benchmarks/opening.py [MIB ROUNDS]

Prints and judges nothing. A round takes every measurement once, in an order drawn anew (the seed is printed), so that a
machine that slows down meanwhile slows all of them; a ratio is the median of the rounds' own ratios, with the least and the
greatest beside it. Sizes, counts and seed stand here, written before the first figure was seen:
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pytest_glasshouse.guest.memory import Arena, LockedSecret
from pytest_glasshouse.guest.opener import Opened, map_file, open_package, releasing
from pytest_glasshouse.owner.owner import Owner
from pytest_glasshouse.owner.sealing import SealedPackage, read_manifest, seal, sealing
from pytest_glasshouse.wire import floe
from pytest_glasshouse.wire.canonical import Json
from pytest_glasshouse.wire.package import parse_header
from pytest_glasshouse.wire.part_file import PartFile

SEED = 20261121
SIZE_MIB = 1024
ROUNDS = 15
#: The limit: AES-256-GCM of the same OpenSSL, one thread, over a buffer that stays in the cache.
HOT_BYTES = 1 << 20
MIB = 1 << 20
NONCE = "00" * 32

Measured = dict[str, list[float]]


class Bench:
    """One package of one part, and everything that is timed."""

    def __init__(self, mib: int) -> None:
        self.size = mib * MIB
        self.owner = owner = Owner.generate()
        parts = {"weights": _noise(self.size)}
        self.sealed: SealedPackage = seal(parts, owner=owner, run="bench", round_nonce=NONCE, workload={})
        self.manifest: dict[str, Json] = read_manifest(self.sealed.manifest, owner=owner.public)
        self.header = parse_header(self.sealed.package)
        self.index = [part.name for part in self.header.parts].index("weights")
        part = self.header.parts[self.index]
        body = memoryview(self.sealed.package)[self.header.body :]
        self.message = body[part.offset : part.offset + part.length]
        self.key = LockedSecret.take(bytes(bytearray(self.sealed.data_key.reveal())))
        self.ready = Arena(self.size)  # every page of it is there before anything is timed
        self.ready.wipe()
        self.hot = _Hot(self.size)
        self.file = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the process)
        self.file.write(self.sealed.package)
        self.file.flush()
        self.memory_file = os.memfd_create("package")
        with os.fdopen(os.dup(self.memory_file), "wb") as out:
            out.write(self.sealed.package)
        self.plain = tempfile.TemporaryFile()  # noqa: SIM115
        self.plain.write(self.ready.view)
        self.plain.flush()
        self.named = tempfile.NamedTemporaryFile()  # noqa: SIM115
        self.named.write(parts["weights"])
        self.named.flush()
        self.weights = parts["weights"]
        self.began = 0.0

    def decrypt(self, threads: int = 1) -> None:
        """The part's message into an arena that is there."""
        context = self.header.context(self.index)
        floe.decrypt_into(self.key.view, context, self.message, self.ready.view, threads=threads)

    def seal(self, source: bytes | PartFile) -> None:
        """Sealed piece by piece, as a package is sent or written; the pieces go nowhere."""
        for _ in sealing({"weights": source}, owner=self.owner, run="bench", round_nonce=NONCE, workload={}).pieces():
            pass

    def open_freeing(self) -> Iterator[None]:
        """From a memory file whose pages are freed as they are decrypted, as in a leg; a new file each time, untimed."""
        fd = os.memfd_create("package")
        with os.fdopen(os.dup(fd), "wb") as out:
            out.write(self.sealed.package)
        self.began = time.perf_counter()
        opened = open_package(map_file(fd), self.key, self.manifest, release=releasing(fd))
        yield
        opened.close()
        os.close(fd)

    def open_file(self, fd: int, threads: int | None) -> Iterator[None]:
        """From a file in the page cache to a tensor, and (after the yield, untimed) away again."""
        import torch

        package = map_file(fd)
        opened: Opened = open_package(package, self.key, self.manifest, threads=threads)
        tensor = torch.frombuffer(opened.parts["weights"], dtype=torch.float32)
        yield
        del tensor
        opened.close()

    def read_file(self) -> Iterator[None]:
        """The same bytes, never sealed, into an arena of the same kind, and a tensor on it."""
        import torch

        arena = Arena(self.size)
        done = 0
        while done < self.size:
            done += os.preadv(self.plain.fileno(), [arena.view[done:]], done)
        tensor = torch.frombuffer(arena.view, dtype=torch.float32)
        yield
        del tensor
        arena.close()

    def memcpy(self) -> None:
        """What no opening can be faster than on a machine whose memory is slower than its cipher."""
        self.ready.view[:] = self.message[: self.size]

    def memset(self) -> None:
        """What wiping cannot be faster than."""
        ctypes.memset(ctypes.addressof(ctypes.c_char.from_buffer(self.ready.view)), 0, self.size)


class _Hot:
    """AES-256-GCM over one buffer, again and again, as many bytes as the package has."""

    def __init__(self, size: int) -> None:
        self._cipher, self._times = AESGCM(bytes(32)), max(1, size // HOT_BYTES)
        self._sealed = self._cipher.encrypt(bytes(12), _noise(HOT_BYTES), None)
        self._out = bytearray(HOT_BYTES)

    def run(self) -> None:
        for _ in range(self._times):
            self._cipher.decrypt_into(bytes(12), self._sealed, None, self._out)


class Twin:
    """The same work in two processes at once: what this machine gives a second core, whatever the threads do."""

    def __init__(self, work: Callable[[], Callable[[], None]]) -> None:
        self._pipes = [self._start(work) for _ in range(2)]

    def _start(self, work: Callable[[], Callable[[], None]]) -> tuple[int, int]:
        (asked, ask), (answered, answer) = os.pipe(), os.pipe()
        if os.fork():
            return ask, answered
        os.close(ask)
        once = work()
        once()
        os.write(answer, b".")
        while os.read(asked, 1) == b".":
            once()
            os.write(answer, b".")
        os._exit(0)

    def ready(self) -> None:
        """Wait until both have done their work once."""
        for _, answered in self._pipes:
            os.read(answered, 1)

    def run(self) -> None:
        """Both at once."""
        for ask, _ in self._pipes:
            os.write(ask, b".")
        for _, answered in self._pipes:
            os.read(answered, 1)

    def close(self) -> None:
        """End both."""
        for ask, _ in self._pipes:
            os.write(ask, b"q")
        for _ in self._pipes:
            os.wait()


def _noise(size: int) -> bytes:
    return (random.Random(SEED).randbytes(min(size, 64 * MIB)) * (size // (64 * MIB) + 1))[:size]  # noqa: S311


def _in_an_arena_of_its_own(bench: Bench) -> Callable[[], None]:
    context, arena = bench.header.context(bench.index), Arena(bench.size)
    key = LockedSecret.take(bytes(bytearray(bench.sealed.data_key.reveal())))  # the parent's is not inherited
    return lambda: floe.decrypt_into(key.view, context, bench.message, arena.view)


@contextmanager
def _twins(bench: Bench) -> Iterator[dict[str, Twin]]:
    twins = {"hot": Twin(lambda: _Hot(bench.size).run), "open": Twin(lambda: _in_an_arena_of_its_own(bench))}
    for twin in twins.values():
        twin.ready()
    try:
        yield twins
    finally:
        for twin in twins.values():
            twin.close()


def _timed(work: Callable[[], object] | Callable[[], Iterator[None]]) -> float:
    begun = time.perf_counter()
    steps = work()
    if isinstance(steps, Iterator):
        next(steps)
    # What makes its own input says when it was made.
    owner = getattr(work, "__self__", None)
    seconds = time.perf_counter() - (owner.began if getattr(work, "__name__", "") == "open_freeing" and owner else begun)
    if isinstance(steps, Iterator):
        next(steps, None)
    return seconds


def _measure(bench: Bench, twins: dict[str, Twin], rounds: int) -> tuple[Measured, Measured]:
    """Wall seconds and CPU seconds (of this process) of everything, round by round."""
    file, memory = bench.file.fileno(), bench.memory_file
    works: dict[str, Callable[[], object]] = {
        "AES hot, 1 thread": bench.hot.run,
        "AES hot, 2 processes": twins["hot"].run,
        "open, 1 thread": bench.decrypt,
        "open, 2 threads": lambda: bench.decrypt(2),
        "open, 2 processes": twins["open"].run,
        "plain read to tensor": bench.read_file,
        "file to tensor": lambda: bench.open_file(file, None),
        "file to tensor, 1 thread": lambda: bench.open_file(file, 1),
        "memory file to tensor": lambda: bench.open_file(memory, None),
        "seal, from memory": lambda: bench.seal(bench.weights),
        "seal, from a file": lambda: bench.seal(PartFile.of(Path(bench.named.name))),
        "memory file, freeing it": bench.open_freeing,
        "memcpy": bench.memcpy,
        "memset": bench.memset,
        "wipe": bench.ready.wipe,
    }
    draw = random.Random(SEED)  # noqa: S311
    wall: Measured = {name: [] for name in works}
    cpu: Measured = {name: [] for name in works}
    for each in range(rounds + 1):
        order = list(works)
        draw.shuffle(order)
        for name in order:
            before = resource.getrusage(resource.RUSAGE_SELF)
            seconds = _timed(works[name])
            after = resource.getrusage(resource.RUSAGE_SELF)
            if each:  # the first round warms everything up
                wall[name].append(seconds)
                cpu[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return wall, cpu


def _ratio(name: str, above: list[float], below: list[float], *, times: float = 1.0) -> str:
    each = sorted(times * a / b for a, b in zip(above, below, strict=True))
    return f"  {name:58} {statistics.median(each):6.3f}   ({each[0]:.3f} to {each[-1]:.3f})"


def main() -> None:
    """Measure and print."""
    mib, rounds = (int(text) for text in sys.argv[1:3]) if len(sys.argv) > 2 else (SIZE_MIB, ROUNDS)  # noqa: PLR2004
    bench = Bench(mib)
    with _twins(bench) as twins:
        wall, cpu = _measure(bench, twins, rounds)
    arena = bench.ready
    print(f"opening a package of {mib} MiB, segments of {bench.header.segment // MIB} MiB, {rounds} rounds, seed {SEED},")
    print(f"{len(os.sched_getaffinity(0))} cores, arena {'locked' if arena.locked else 'not locked'}, {_huge(arena)}")
    for name, values in wall.items():
        work = 2 * bench.size if "processes" in name else bench.size
        rate = work / statistics.median(values) / (1 << 30)
        wall_ms, cpu_ms = statistics.median(values) * 1e3, statistics.median(cpu[name]) * 1e3
        print(f"  {name:26} median {wall_ms:8.1f} ms {rate:7.2f} GiB/s, least {min(values) * 1e3:8.1f} ms, CPU {cpu_ms:8.1f} ms")
    print("ratios: median of the rounds' ratios (least to greatest)")
    print(_ratio("opening, one thread: speed over AES-256-GCM, hot buffer", wall["AES hot, 1 thread"], wall["open, 1 thread"]))
    print(_ratio("  the same by CPU seconds", cpu["AES hot, 1 thread"], cpu["open, 1 thread"]))
    print(_ratio("  the same over memcpy of as many bytes", wall["memcpy"], wall["open, 1 thread"]))
    # A write to memory reads the line first: wiping moves twice the size, opening three times.
    print(_ratio("  the same over what memset's traffic allows", wall["memset"], wall["open, 1 thread"], times=1.5))
    print(_ratio("two threads over one", wall["open, 1 thread"], wall["open, 2 threads"]))
    print(_ratio("  control: two processes opening over one", wall["open, 1 thread"], wall["open, 2 processes"], times=2))
    print(
        _ratio("  control: two processes, hot buffer, over one", wall["AES hot, 1 thread"], wall["AES hot, 2 processes"], times=2)
    )
    print(_ratio("file to tensor: time over a plain read", wall["file to tensor"], wall["plain read to tensor"]))
    print(_ratio("  one thread", wall["file to tensor, 1 thread"], wall["plain read to tensor"]))
    print(_ratio("  from a memory file, as a leg has it", wall["memory file to tensor"], wall["plain read to tensor"]))
    print(
        _ratio("sealing, from memory: speed over AES-256-GCM, hot buffer", wall["AES hot, 1 thread"], wall["seal, from memory"])
    )
    print(_ratio("  the same over memcpy of as many bytes", wall["memcpy"], wall["seal, from memory"]))
    print(_ratio("sealing, from a file: speed over a plain read", wall["plain read to tensor"], wall["seal, from a file"]))
    print(
        _ratio(
            "opening and freeing the ciphertext: time over opening",
            wall["memory file, freeing it"],
            wall["memory file to tensor"],
        )
    )
    print(_ratio("wiping: speed over memset", wall["memset"], wall["wipe"]))


def _huge(arena: Arena) -> str:
    """How much of the arena lies on huge pages, by the kernel's own account."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(arena.view))
    here, huge = False, 0
    for line in Path("/proc/self/smaps").read_text(encoding="ascii", errors="replace").splitlines():
        if "-" in line.split(" ", 1)[0] and not line.startswith(("Vm", "Anon")):
            first, _, last = line.split(" ", 1)[0].partition("-")
            here = int(first, 16) <= address < int(last, 16)
        elif here and line.startswith("AnonHugePages:"):
            huge += int(line.split()[1])
    return f"{huge // 1024} MiB of it on huge pages"


if __name__ == "__main__":
    main()
