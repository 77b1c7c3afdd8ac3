"""A sealed row on this machine with a random model of a given size: what its guest needs of memory, and what it writes to disk.

    python benchmarks/sealed.py [MIB]

Prints and judges nothing. The model is made in a temporary directory, sealed shard by shard, opened and trained on for a few
steps on the mock provider. Memory is read every 50 ms while the row runs: the anonymous memory of every process of the guest,
and its memory files, such as the sealed package. That is what the system cannot take back; pages of files on disk (libraries,
the page cache) it can, and they are not counted. A page that several processes share counts once (the kernel's Pss, which of a
hardened process only root may read: for others it counts in each). The guest's directory is searched for pieces of every tensor
all the while.
"""

from __future__ import annotations

import contextlib
import secrets
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_glasshouse.agent.model_making import write
from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.timing import LOCAL
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.workloads import stand_in
from pytest_glasshouse.workloads.stand_in import StandInShape

SIZE_MIB = 2048
#: Layers of Qwen2.5-32B, as many as give the size. What a step of training holds grows with their number: few and wide ones show
#: what the guest itself needs.
LAYER = StandInShape(
    name="random", layers=1, hidden=5120, inner=27648, heads=40, key_heads=8, positions=512, largest_file=1 << 29
)
MIB = 1 << 20
_SAMPLE_S = 0.05


def make_model(directory: Path, mib: int) -> list[bytes]:
    """A random model of about `mib` MiB in bfloat16, and a piece of each of its tensors."""
    one = sum(file.size for file in stand_in.weight_files(LAYER))
    shape = replace(LAYER, layers=max(1, round(mib * MIB / one)))
    for name, content in stand_in.small_files(shape).items():
        (directory / name).write_bytes(content)
    pieces = []
    for file in stand_in.weight_files(shape):
        write(file, directory)
        with (directory / file.name).open("rb") as made:
            for name, entry in file.entries().items():
                if name not in file.ones:
                    made.seek((entry.start + entry.end) // 2)
                    pieces.append(made.read(32))
    return pieces


class Memory(threading.Thread):
    """Samples what a guest's processes hold until it is stopped."""

    def __init__(self, directory: Path) -> None:
        super().__init__(daemon=True)
        self._directory, self._over = directory, threading.Event()
        self.phase, self.peaks, self.most, self.host = "start", dict[str, int](), 0, 0
        self.at_most: dict[str, int] = {}
        #: The most that one process in a launcher's place held: the leg, which is forked from it.
        self.leg = 0

    def run(self) -> None:
        while not self._over.wait(_SAMPLE_S):
            processes = _processes_of(self._directory)
            each = {_name(pid): _anonymous_bytes(pid) for pid in processes}
            self.leg = max(self.leg, *(held for name, held in each.items() if name.startswith("launcher")), 0)
            each["memory files"] = _memory_files(processes)
            held = sum(each.values())
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), held)
            if held > self.most:
                self.most, self.at_most = held, each
            self.host = max(self.host, _anonymous_bytes("self"))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _processes_of(directory: Path) -> list[str]:
    """The processes whose command line or working directory names the guest's directory, and their children."""
    found, parents = set[str](), dict[str, str]()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(OSError, IndexError):
            parents[entry.name] = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            if str(directory).encode() in (entry / "cmdline").read_bytes():
                found.add(entry.name)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def _name(pid: str) -> str:
    """What a process of the guest does, by its arguments, and its id."""
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return f"{next((word.decode() for word in words if word.isalpha() and word.isascii()), 'process')} {pid}"
    return pid


def _anonymous_bytes(pid: str) -> int:
    """What a process has of anonymous memory; of pages that it shares with the process it was forked from, its part of each."""
    for name, field in (("smaps_rollup", "Pss_Anon:"), ("status", "RssAnon:")):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/{name}").read_text().splitlines():
                if line.startswith(field):
                    return int(line.split()[1]) * 1024
    return 0


def _memory_files(processes: list[str]) -> int:
    """Bytes that the memory files of these processes take, each file once."""
    found: dict[int, int] = {}
    for pid in processes:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith("/memfd:"):
                    status = link.stat()
                    found[status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def _search(directory: Path, pieces: list[bytes], hits: set[str]) -> None:
    for path in directory.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size < 1 << 30:
                content = path.read_bytes()
                hits.update(path.name for piece in pieces if piece in content)


def main() -> None:
    """Make, run, measure and print."""
    mib = int(sys.argv[1]) if len(sys.argv) > 1 else SIZE_MIB
    with tempfile.TemporaryDirectory() as scratch:
        model = Path(scratch) / "random-model"
        model.mkdir()
        pieces = make_model(model, mib)
        size = sum(path.stat().st_size for path in model.glob("*.safetensors"))
        row = RowSpec(
            name="sealed",
            workload="lora",
            gpu="anygpu",
            order="protected-first",
            steps=1,
            warmup_s=0.0,
            model="random-model",
            base="sealed",
        )
        provider = MockProvider(())
        options = BrokerOptions(
            provider="mock",
            run_id=f"bench-{secrets.token_hex(4)}",
            run_dir=Path(scratch) / "run",
            timing=LOCAL,
            boot_timeout_s=120,
        )
        broker, attestation = Broker(options, providers={"mock": provider}), HostAttestation()
        hits: set[str] = set()
        began: dict[str, float] = {}
        try:
            grant = broker.acquire(row)
            directory = Path(grant.address).parent
            memory = Memory(directory)

            def on_progress(progress: Progress) -> None:
                if progress.phase == "seal":
                    began["sent"] = time.monotonic()
                if progress.phase != memory.phase:
                    began.setdefault(progress.phase, time.monotonic())
                    memory.phase = progress.phase
                    _search(directory, pieces, hits)

            memory.start()
            settings = RowSettings(declared=row, run_id="bench", seed=7, model=str(model), leg_timeout_s=7200)
            outcome: Any = row.run(Allocation(grant, broker, settings, on_progress), ProtectedRuntime(attestation), RawRunner())
            memory.stop()
            _search(directory, pieces, hits)
            broker.release(grant)
        finally:
            attestation.close()
            broker.end_all()
    _print(size, outcome, memory, began, hits)


def _print(size: int, outcome: Any, memory: Memory, began: dict[str, float], hits: set[str]) -> None:
    how = f"ended: {outcome.ended.reason}" if outcome.ended else "completed"
    print(f"a random model of {size / MIB:.0f} MiB, sealed; the row {how}")
    for finding in judge(outcome.observation):
        print(f"  {finding.finding:7} {finding.invariant}: {finding.reason}")
    (measured,) = results(outcome.observation)
    if measured.protected is not None:
        phases = measured.protected.phases_ns
        if "seal" in began:
            seconds = began["sent"] - began["seal"]
            print(f"sealed and sent in {seconds:.2f} s: {size / seconds / (1 << 30):.2f} GiB/s")
        print(f"opened in {phases['open'] / 1e9:.2f} s: {size / (phases['open'] / 1e9) / (1 << 30):.2f} GiB/s")
        print(f"loaded in {phases['load'] / 1e9:.2f} s, zeroized in {phases['zeroize'] / 1e9:.2f} s")
        print(
            f"the leg's own peak (ru_maxrss, pages of libraries too): {(measured.protected.peak_memory_bytes or 0) / MIB:.0f} MiB"
        )
    print(f"the guest held at most {memory.most / MIB:.0f} MiB: the model and {(memory.most - size) / 1e6:.0f} MB")
    print(
        f"its leg, which opens the package and trains, at most {memory.leg / MIB:.0f} MiB: "
        f"the model and {(memory.leg - size) / 1e6:.0f} MB"
    )
    print("  " + ", ".join(f"{name}: {held / MIB:.0f} MiB" for name, held in memory.at_most.items()))
    for phase, held in memory.peaks.items():
        print(f"  {phase:10} {held / MIB:8.0f} MiB")
    print(f"the host's process held at most {memory.host / MIB:.0f} MiB of its own")
    print(f"files of the guest with a piece of a weight: {', '.join(sorted(hits)) or 'none'}")


if __name__ == "__main__":
    main()
