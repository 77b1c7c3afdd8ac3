"""One real run, made once: a row of two rounds and one of one, one whose legs take turns, a null row and one that was excluded.

On the mock provider, published as the face does. Its guests train with numpy: what is tested here is the report.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.analysis.fields import Record
from pytest_glasshouse.analysis.record import RecordSettings, build_record
from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.check.authenticity import Trust
from pytest_glasshouse.invariants import judge
from pytest_glasshouse.invariants.revisions import newest
from pytest_glasshouse.legs.attestation import HostAttestation
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.publish.writer import publish
from pytest_glasshouse.report.bundle import SUFFIX
from pytest_glasshouse.report.document import AllocationCleanup, assemble
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.tokens import public_text
from tests.numpy_guest.archive import numpy_provider
from tests.numpy_guest.bytecode import keep, keep_in_cache, use_kept
from tests.rounds.conftest import short_row
from tests.unit.report import example

RUN_ID = "20261120-170000-9f3c"
#: What this build does not see; a row is measured nevertheless, and not publishable.
WAIVED = {"memory scanned clean": "not required here"}


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """What a reader gets, and the keys a reader trusts. `report_key` is the publisher's own."""

    document: Any
    bundle: bytes
    report: Path
    bundle_path: Path
    trust: Trust
    report_key: Ed25519PrivateKey


def _record(outcome: Outcome) -> Record:
    findings = judge(outcome.observation)
    settings = RecordSettings(seed=7, overridden=("target", "warmup"), waived=WAIVED)
    return build_record(outcome, results(outcome.observation), findings, settings)


@pytest.fixture(scope="session")
def real_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """Made once per session; by whichever of several workers comes first."""
    keep_in_cache(request.config, tmp_path_factory)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    directory = tmp_path_factory.mktemp("real") if run is None else tmp_path_factory.getbasetemp().parent / f"real-{run}"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        key_file = directory / "report.key"
        if not key_file.exists():
            key = Ed25519PrivateKey.generate()
            _made(directory, key)
            key_file.write_bytes(key.private_bytes_raw())
    return _read(directory, Ed25519PrivateKey.from_private_bytes(key_file.read_bytes()))


def _made(directory: Path, key: Ed25519PrivateKey) -> None:
    """Carried out, judged, sealed and published."""
    broker, lossy = _broker(RUN_ID, directory / "broker"), _broker(RUN_ID + "-b", directory / "lossy", "raw-callback-lost")
    host_attestation = HostAttestation()
    rows = [
        (broker, short_row(name="one", rounds=2)),
        (broker, short_row(name="two", order="protected-first")),
        (broker, short_row(name="turns", order="interleaved", target_s=0.2)),
        (broker, short_row(name="null", order="interleaved", target_s=0.2, null=True)),
        (lossy, short_row(name="lost-callback", order="protected-first")),
    ]
    cleanups: list[dict[str, Any]] = []
    try:
        records = [_record(_carried_out(each, row, host_attestation)) for each, row in rows]
    finally:
        host_attestation.close()
        for each in (broker, lossy):
            cleanups += each.end_all().allocations
    assert [record["list"] for record in records] == ["rows", "rows", "rows", "nullRows", "excludedResults"], [
        r["record"].get("reason") for r in records
    ]
    proven = [
        AllocationCleanup(
            provider="mock", name=each["name"], provider_instance_id=each.get("instanceId"), status="proven", reason="gone"
        )
        for each in cleanups
    ]
    document = assemble(example.facts(run_id=RUN_ID, cleanup=tuple(proven)), records, tamper=example.tamper(), key=key)
    publish(document, report=directory / "out" / "run.json", run_directory=directory / "run", key=key)


def _broker(run_id: str, run_dir: Path, *faults: str) -> Broker:
    options = BrokerOptions(provider="mock", run_id=run_id, run_dir=run_dir, faults=faults)
    provider = numpy_provider(faults)
    use_kept(provider, "numpy")
    return Broker(options, providers={"mock": provider})


def _read(directory: Path, key: Ed25519PrivateKey) -> RealRun:
    report, bundle = directory / "out" / "run.json", directory / "out" / f"run{SUFFIX}"
    document = json.loads(report.read_bytes())
    named = {public_text(key.public_key()), *document["keys"]["servers"], *document["keys"]["owners"]}
    return RealRun(
        document=document,
        bundle=bundle.read_bytes(),
        report=report,
        bundle_path=bundle,
        trust=Trust(keys=frozenset(named)),
        report_key=key,
    )


def _carried_out(broker: Broker, row: RowSpec, host_attestation: HostAttestation) -> Outcome:
    grant = broker.acquire(row)
    settings = RowSettings(declared=row, run_id=RUN_ID, seed=7, subject=dict(example.facts().subject), revision=newest())
    outcome: Outcome = row.run(
        Allocation(grant, broker, settings, lambda _: None), ProtectedRuntime(host_attestation), RawRunner()
    )
    keep(Path(grant.address).parent / "bytecode", "numpy")
    broker.release(grant)
    return outcome
