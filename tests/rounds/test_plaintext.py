"""Neither leg writes the package's plaintext to disk: looked for in the whole guest directory, during training and after."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.cli import replay as replay_module
from pytest_glasshouse.invariants import ALL, judge
from pytest_glasshouse.legs import protected
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.legs.row_runner import ProtectedRuntime
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.owner.sealing import Sealing, sealing
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.registry import prepare
from tests.rounds.conftest import RowGuest, carry_out, short_row
from tests.rounds.plaintext import Search, windows


class _RememberingRuntime(ProtectedRuntime):
    """Keeps what it sealed, so that a test can look for it."""

    def __init__(self, host_attestation: HostAttestation) -> None:
        super().__init__(host_attestation)
        self.sealed: list[Sealing] = []

    def _seal(self, current: Round) -> Sealing:
        self.sealed.append(super()._seal(current))
        return self.sealed[-1]


_LORA = ("lora", "torch", "interleaved", "threads")
#: Workload, what trains it, order, and how the package is opened. With torch the opener's one thread and several are both here.
_ROWS = [
    ("mlp", "torch", "raw-first", "one-thread"),
    ("mlp", "numpy", "protected-first", "threads"),
    _LORA,
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


@dataclass(frozen=True)
class _Searched:
    """A row that was carried out while its guest's disk was searched."""

    outcome: Outcome
    patterns: list[bytes]
    looked_during: set[str]
    hits: list[str]


def _search(row: tuple[str, str, str, str], run_dir: Path, torch_guest: Callable[[], RowGuest]) -> _Searched:
    """On the guest of all rows with torch, or on one with numpy of which nothing is left."""
    workload, library, order, opening = row
    spec = short_row(workload, order, target_s=0.4 if order == "interleaved" else 1.2)
    initial = prepare(spec.workload, seed=7, model=spec.model).parts["initial"]
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

    with pytest.MonkeyPatch.context() as patch:
        if opening == "threads":
            # Segments so small that every part has many: each of the opener's threads gets some.
            patch.setattr(protected, "sealing", functools.partial(sealing, segment=4096))
        if library == "torch":
            outcome = torch_guest().carry_out(spec, on_progress=on_progress, runtime=runtime)
        else:
            ran = carry_out(spec, run_dir, on_progress=on_progress, runtime=runtime)
            assert (ran.cleanup.status, ran.guest_directory.exists()) == ("proven", False)
            outcome = ran.outcome
    return _Searched(outcome, patterns, looked_during, search.hits)


@pytest.fixture(scope="module")
def searched(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[tuple[str, str, str, str]], _Searched]:
    """Each row once."""
    return functools.cache(
        lambda row: _search(row, tmp_path_factory.mktemp("run"), lambda: request.getfixturevalue("torch_guest"))
    )


@pytest.mark.soak
@pytest.mark.parametrize("row", _ROWS + (_MORE if os.environ.get("SOAK") else []), ids="-".join)
def test_no_plaintext_is_on_the_guests_disk_in_a_row_where_everything_holds(
    row: tuple[str, str, str, str], searched: Callable[[tuple[str, str, str, str]], _Searched]
) -> None:
    """The package is sealed so that the operator's disk never sees it. A row of lora in turns: both legs on the same base files."""
    found, in_turns = searched(row), row[2] == "interleaved"
    assert found.outcome.ended is None
    # With the memory scan: those of torch are the legs that train with it.
    findings = judge(found.outcome.observation)
    assert [(f.invariant, f.reason) for f in findings if f.finding != "held"] == []
    assert len(findings) == len(ALL) - (not in_turns)  # only a leg in turns is paused
    assert found.looked_during == (_IN_TURNS if in_turns else _IN_ORDER)
    assert found.patterns
    assert found.hits == []


@pytest.mark.soak
def test_legs_of_lora_give_their_adapters_again(
    searched: Callable[[tuple[str, str, str, str]], _Searched], trained: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real model of the stand-in's shape, in bfloat16, with an optimizer that has a state of its own: the row above."""
    monkeypatch.setattr(replay_module, "_trained", trained)
    document: Any = {"rows": [{"rowId": "a-row", "observation": searched(_LORA).outcome.observation}], "nullRows": []}
    found = list(replay_module.replay(document, 2))
    assert {each.leg for each in found} == {"protected", "raw"}
    assert all(each.equal and "bit for bit" in each.reason for each in found), [str(each) for each in found]


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
