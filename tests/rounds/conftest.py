"""Real rows on the mock provider: real guests, real server, short legs."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.timing import LOCAL
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.providers.base import Cleanup
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.canonical import canonical
from pytest_glasshouse.workloads.base import GUEST_ENVIRONMENT
from tests.limits import HANG_S
from tests.numpy_guest.archive import numpy_archive
from tests.numpy_guest.bytecode import keep_in_cache, use_kept
from tests.pytest_process import CompiledFiles, compiled_files


def short_row(workload: str = "mlp", order: str = "raw-first", **fields: Any) -> RowSpec:
    """A row whose legs take a moment."""
    model = "Qwen/Qwen2.5-0.5B-Instruct" if workload == "lora" else None
    return RowSpec(
        **{
            "name": f"short-{workload}",
            "workload": workload,
            "gpu": "anygpu",
            "order": order,
            "target_s": 0.1,
            "warmup_s": 0.02,
            "model": model,
            **fields,
        }
    )


def run_id() -> str:
    """One of its own for every run: it distinguishes allocations, and tests run side by side."""
    return f"test-{secrets.token_hex(4)}"


@dataclass
class Ran:
    """One row that was carried out, and what became of its allocation."""

    outcome: Outcome
    cleanup: Cleanup
    guest_directory: Path


#: Ending takes as long as the machine takes: the product gives up after two seconds here.
PATIENT = replace(LOCAL, give_up_s=HANG_S)


class RowGuest:
    """The guest that a broker rents for the first row; the others are carried out on the same one."""

    def __init__(
        self, run_dir: Path, kind: str, *, faults: tuple[str, ...] = (), archive: bytes | None = None, kept: bool = True
    ) -> None:
        """`kind` is what it trains with, as `use_kept` has it; not `kept`: it compiles all that it imports."""
        provider = MockProvider(faults, archive=archive)
        if kept:
            use_kept(provider, kind)
        options = BrokerOptions(
            provider="mock", run_id=run_id(), run_dir=run_dir, faults=faults, timing=PATIENT, boot_timeout_s=HANG_S
        )  # fmt: skip
        self._broker = Broker(options, providers={"mock": provider})
        self.directory = Path()

    def carry_out(
        self,
        row: RowSpec,
        *,
        on_progress: Callable[[Progress, Path], None] = lambda _progress, _directory: None,
        runtime: Callable[[HostAttestation], ProtectedRuntime] = ProtectedRuntime,
        **settings: Any,
    ) -> Outcome:
        """Rent, run and release, as the face does. Each row is a run of its own: a server is told of a run's rows at its start."""
        host_attestation = HostAttestation()
        try:
            grant = self._broker.acquire(row)
            self.directory = Path(grant.address).parent
            given = RowSettings(declared=row, run_id="test", seed=7, **settings)
            allocation = Allocation(grant, self._broker, given, lambda progress: on_progress(progress, self.directory))
            outcome = row.run(allocation, runtime(host_attestation), RawRunner())
            self._broker.release(grant)
        finally:
            host_attestation.close()
        return outcome

    def end(self) -> Cleanup:
        """End it."""
        return self._broker.end_all()


def carry_out(
    row: RowSpec,
    run_dir: Path,
    *,
    faults: tuple[str, ...] = (),
    archive: bytes | None = None,
    torch: bool = False,
    **given: Any,
) -> Ran:
    """Carry a row out on a guest of its own, and end it. `given` is for `RowGuest.carry_out`.

    An mlp row runs on the numpy guest, and with `torch` on the product's own. `archive` is a guest of the test's own, whose
    digest the host expects as it expects the mock's dishonest guest.
    """
    torch = torch or row.workload == "lora"
    if archive is None and not torch:
        archive = numpy_archive(faults)
    kind = "lora" if row.workload == "lora" else "torch" if torch else "numpy"
    # The guest of this fault begins its second leg with an empty cache, and its first one too.
    guest = RowGuest(run_dir, kind, faults=faults, archive=archive, kept="reboot-between-legs" not in faults)
    try:
        outcome = guest.carry_out(row, **given)
    finally:
        cleanup = guest.end()
    return Ran(outcome=outcome, cleanup=cleanup, guest_directory=guest.directory)


@contextlib.contextmanager
def guest_for_rows(run_dir: Path, kind: str, *, archive: bytes | None = None) -> Iterator[RowGuest]:
    """A guest for several rows; in the end nothing of it is left."""
    guest = RowGuest(run_dir, kind, archive=archive)
    try:
        yield guest
    finally:
        cleanup = guest.end()
    assert (cleanup.status, guest.directory.exists()) == ("proven", False)


@pytest.fixture(scope="session", autouse=True)
def kept_bytecode(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the byte code of libraries is kept for guests: for later sessions too, where pytest keeps a cache."""
    return keep_in_cache(request.config, tmp_path_factory)


@pytest.fixture(scope="session")
def compiled() -> CompiledFiles:
    return compiled_files()


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One mlp row, raw-first, without any fault, on the numpy guest."""
    return carry_out(short_row(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def turns_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One mlp row whose legs take turns, without any fault: two pairs of a quarter of a second."""
    return carry_out(short_row(order="interleaved", target_s=0.5), tmp_path_factory.mktemp("turns"))


@pytest.fixture(scope="session")
def torch_guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RowGuest]:
    """The product's own guest, for rows that need its torch and no guest of their own: it compiles and imports once for all."""
    with guest_for_rows(tmp_path_factory.mktemp("torch-guest"), "lora") as guest:
        yield guest


@pytest.fixture
def good_observation(good_run: Ran) -> Any:
    """Its observation."""
    return good_run.outcome.observation


#: Reads tasks, one in a line, as the product's process reads its only one: torch is imported once for all of them.
_TRAIN_EACH = """
import io, sys
from pytest_glasshouse.cli import replay_leg
for line in iter(sys.stdin.readline, ""):
    sys.stdin = io.StringIO(line)
    replay_leg.main()
    sys.stdout.flush()
    sys.stdin = sys.__stdin__
"""


@pytest.fixture(scope="session", name="trained")
def a_process_that_trains() -> Iterator[Callable[..., Any]]:
    """What is trained again is the same for the same task: each is trained once, all in one process."""
    process = subprocess.Popen(
        [sys.executable, "-c", _TRAIN_EACH],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **GUEST_ENVIRONMENT},
    )  # fmt: skip
    tasks, answers = process.stdin, process.stdout
    assert tasks is not None
    assert answers is not None
    done: dict[bytes, Any] = {}

    def trained(task: Any, **_within: float) -> Any:
        key = canonical(task)
        if key not in done:
            print(json.dumps(task), file=tasks, flush=True)
            done[key] = json.loads(answers.readline())
        return copy.deepcopy(done[key])

    with process:
        yield trained
        tasks.close()
