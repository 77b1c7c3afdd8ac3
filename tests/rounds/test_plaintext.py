"""Neither leg writes the package's plaintext to disk: looked for in the whole guest directory, during training and after."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.round import Round
from pytest_glasshouse.legs.row_runner import ProtectedRuntime
from pytest_glasshouse.owner.sealing import SealedPackage
from pytest_glasshouse.wire.tensors import parse_safetensors
from pytest_glasshouse.workloads.registry import prepare
from tests.rounds.conftest import carry_out, short_row

_WINDOW = 32


class _RememberingRuntime(ProtectedRuntime):
    """Keeps what it sealed, so that a test can look for it."""

    def __init__(self, host_attestation: HostAttestation) -> None:
        super().__init__(host_attestation)
        self.sealed: list[SealedPackage] = []

    def _seal(self, current: Round) -> SealedPackage:
        self.sealed.append(super()._seal(current))
        return self.sealed[-1]


def _windows(data: bytes) -> list[bytes]:
    return [data[start : start + _WINDOW] for start in range(0, len(data) - _WINDOW + 1, _WINDOW)]


def _found(directory: Path, patterns: list[bytes]) -> list[str]:
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert files, "an empty directory proves nothing"
    contents = {path.name: path.read_bytes() for path in files}
    return [name for name, content in contents.items() if any(pattern in content for pattern in patterns)]


@pytest.mark.parametrize("order", ["raw-first", "protected-first"])
@pytest.mark.parametrize("workload", ["mlp", "lora"])
def test_no_plaintext_is_on_the_guests_disk(workload: str, order: str, tmp_path: Path) -> None:
    """The package is sealed so that the operator's disk never sees it."""
    row = short_row(workload, order, target_s=1.2)
    initial = prepare(workload, seed=7, model=row.model).parts["initial"]  # type: ignore[arg-type]
    weights = [initial[entry.start : entry.end] for entry in parse_safetensors(memoryview(initial)).values()]
    # All-zero tensors (LoRA B) are on every disk; they prove nothing.
    patterns = [window for data in weights for window in _windows(data)[:8] if any(window)]
    runtimes: list[_RememberingRuntime] = []
    looked_during: set[str] = set()
    hits: list[str] = []

    def runtime(host_attestation: HostAttestation) -> ProtectedRuntime:
        runtimes.append(_RememberingRuntime(host_attestation))
        return runtimes[0]

    def look(directory: Path) -> None:
        canaries = [window for sealed in runtimes[0].sealed for window in _windows(sealed.canary.reveal())]
        hits.extend(_found(directory, patterns + canaries))

    def on_progress(progress: Progress, directory: Path) -> None:
        if progress.phase in ("train", "exit"):
            looked_during.add(f"{progress.leg} {progress.phase}")
            look(directory)

    ran = carry_out(row, tmp_path, on_progress=on_progress, runtime=runtime)
    assert ran.outcome.ended is None
    assert looked_during == {"raw train", "raw exit", "protected train", "protected exit"}
    assert patterns
    assert hits == []


def test_the_search_would_find_a_plaintext_file(tmp_path: Path) -> None:
    """The positive control of the search above."""
    (tmp_path / "leak").write_bytes(b"x" * 100 + b"secret canary of thirty-two byte" + b"y")
    assert _found(tmp_path, [b"secret canary of thirty-two byte"]) == ["leak"]
