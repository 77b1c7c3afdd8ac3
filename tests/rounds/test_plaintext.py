"""Neither leg writes the package's plaintext to disk: looked for in the whole guest directory, during training and after."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from pytest_glasshouse.invariants import ALL, judge
from pytest_glasshouse.legs import protected
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.legs.row_runner import ProtectedRuntime
from pytest_glasshouse.owner.sealing import Sealing, sealing
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.registry import prepare
from tests.rounds.conftest import carry_out, short_row
from tests.rounds.plaintext import Search, windows


class _RememberingRuntime(ProtectedRuntime):
    """Keeps what it sealed, so that a test can look for it."""

    def __init__(self, host_attestation: HostAttestation) -> None:
        super().__init__(host_attestation)
        self.sealed: list[Sealing] = []

    def _seal(self, current: Round) -> Sealing:
        self.sealed.append(super()._seal(current))
        return self.sealed[-1]


#: Workload, what trains it, order, and how the package is opened. With torch the opener's one thread and several are both here.
_ROWS = [
    ("mlp", "torch", "raw-first", "one-thread"),
    ("mlp", "numpy", "protected-first", "threads"),
    ("lora", "torch", "interleaved", "threads"),
]
#: A row of lora imports for half a minute. In turns both of its legs are on the disk at once; one after the other in `make soak`.
_MORE = [
    ("mlp", "torch", "protected-first", "threads"),
    ("lora", "torch", "raw-first", "one-thread"),
    ("lora", "torch", "protected-first", "one-thread"),
    ("mlp", "torch", "interleaved", "one-thread"),
]
_IN_TURNS = {"both turns", "raw exit", "protected exit"}
_IN_ORDER = {"raw train", "raw exit", "protected train", "protected exit"}


@pytest.mark.soak
@pytest.mark.parametrize(("workload", "library", "order", "opening"), _ROWS + (_MORE if os.environ.get("SOAK") else []))
def test_no_plaintext_is_on_the_guests_disk_in_a_row_where_everything_holds(
    workload: str, library: str, order: str, opening: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is sealed so that the operator's disk never sees it. A row of lora in turns: both legs on the same base files."""
    if opening == "threads":
        # Segments so small that every part has many: each of the opener's threads gets some.
        monkeypatch.setattr(protected, "sealing", functools.partial(sealing, segment=4096))
    row = short_row(workload, order, target_s=0.4 if order == "interleaved" else 1.2)
    initial = prepare(workload, seed=7, model=row.model).parts["initial"]  # type: ignore[arg-type]
    weights = [initial[entry.start : entry.end] for entry in parse_safetensors(memoryview(initial)).values()]
    # All-zero tensors (LoRA B) are on every disk; they prove nothing.
    patterns = [window for data in weights for window in windows(data)[:8] if any(window)]
    runtimes: list[_RememberingRuntime] = []
    looked_during: set[str] = set()
    search = Search()

    def runtime(host_attestation: HostAttestation) -> ProtectedRuntime:
        runtimes.append(_RememberingRuntime(host_attestation))
        return runtimes[0]

    def on_progress(progress: Progress, directory: Path) -> None:
        if progress.phase in ("train", "turns", "exit"):
            looked_during.add(f"{progress.leg} {progress.phase}")
            canaries = [window for sealed in runtimes[0].sealed for window in windows(sealed.canary.reveal())]
            search.look(directory, patterns + canaries)

    ran = carry_out(row, tmp_path, on_progress=on_progress, runtime=runtime, torch=library == "torch")
    assert ran.outcome.ended is None
    # With the memory scan: those of torch are the legs that train with it.
    findings = judge(ran.outcome.observation)
    assert [(f.invariant, f.reason) for f in findings if f.finding != "held"] == []
    assert len(findings) == len(ALL) - (order != "interleaved")  # only a leg in turns is paused
    assert ran.cleanup.status == "proven"
    assert not ran.guest_directory.exists()
    assert looked_during == (_IN_TURNS if order == "interleaved" else _IN_ORDER)
    assert patterns
    assert search.hits == []


_SECRET, _OTHER = b"secret canary of thirty-two byte", b"another canary of thirty-two b.!"


def test_the_search_would_find_a_plaintext_file(tmp_path: Path) -> None:
    """The positive control of the search above: in a file that is new, and in one that was changed."""
    search, leak = Search(), tmp_path / "leak"
    for number, content in enumerate((b"x" * 100 + _SECRET + b"y", b"z" * 100 + _SECRET + b"y"), 1):
        leak.write_bytes(content)
        search.look(tmp_path, [_SECRET, _OTHER])
        assert search.hits == ["leak"] * number
        leak.write_bytes(bytes(len(content)))
        search.look(tmp_path, [_SECRET, _OTHER])
        assert search.hits == ["leak"] * number


def test_the_search_would_find_in_an_old_file_what_it_was_not_told_before(tmp_path: Path) -> None:
    """Canaries are drawn when files are there already."""
    search = Search(settled_ns=0)
    (tmp_path / "leak").write_bytes(_OTHER)
    search.look(tmp_path, [_SECRET])
    assert search.hits == []
    search.look(tmp_path, [_SECRET, _OTHER])
    assert search.hits == ["leak"]
