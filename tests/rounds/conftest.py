"""Real rows on the mock provider: real guests, real server, short legs."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.providers.base import Cleanup
from pytest_glasshouse.providers.mock import MockProvider
from pytest_glasshouse.rows.spec import RowSpec


def short_row(workload: str = "mlp", order: str = "raw-first", **fields: Any) -> RowSpec:
    """A row whose legs take a moment."""
    model = "Qwen/Qwen2.5-0.5B-Instruct" if workload == "lora" else None
    return RowSpec(
        **{
            "name": f"short-{workload}",
            "workload": workload,
            "gpu": "anygpu",
            "order": order,
            "target_s": 0.2,
            "warmup_s": 0.05,
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


RunRow = Callable[..., Ran]


def carry_out(
    row: RowSpec,
    run_dir: Path,
    *,
    faults: tuple[str, ...] = (),
    on_progress: Callable[[Progress, Path], None] = lambda _progress, _directory: None,
    runtime: Callable[[HostAttestation], ProtectedRuntime] = ProtectedRuntime,
    provider: MockProvider | None = None,
    archive: bytes | None = None,
    **settings: Any,
) -> Ran:
    """Rent, run and end, as the face does."""
    if archive is not None:
        # A guest of the test's own, whose digest the host expects as it expects the mock's dishonest guest.
        provider = MockProvider(archive=archive)
    options = BrokerOptions(provider="mock", run_id=run_id(), run_dir=run_dir, faults=faults)
    broker = Broker(options, providers={} if provider is None else {"mock": provider})
    host_attestation = HostAttestation()
    try:
        grant = broker.acquire(row)
        directory = Path(grant.address).parent
        given = RowSettings(declared=row, run_id="test", seed=7, **settings)
        allocation = Allocation(grant, broker, given, lambda progress: on_progress(progress, directory))
        outcome = row.run(allocation, runtime(host_attestation), RawRunner())
        broker.release(grant)
    finally:
        host_attestation.close()
        cleanup = broker.end_all()
    return Ran(outcome=outcome, cleanup=cleanup, guest_directory=directory)


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One mlp row, raw-first, without any fault."""
    return carry_out(short_row(), tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def turns_run(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """One mlp row whose legs take turns, without any fault: two pairs of a quarter of a second."""
    return carry_out(short_row(order="interleaved", target_s=0.5), tmp_path_factory.mktemp("turns"))


@pytest.fixture
def good_observation(good_run: Ran) -> Any:
    """Its observation."""
    return good_run.outcome.observation
