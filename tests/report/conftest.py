"""One real run, made once: a row of two rounds and one of one, one whose legs take turns, a null row and one that was excluded.

On the mock provider, published as the face does. Its guests train with numpy: what is tested here is the report.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Sequence
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
from pytest_glasshouse.legs.leg_watch import Progress
from pytest_glasshouse.legs.row_runner import Allocation, ProtectedRuntime, RawRunner, RowSettings
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.observation.results import results
from pytest_glasshouse.publish.writer import publish
from pytest_glasshouse.report.bundle import SUFFIX
from pytest_glasshouse.report.document import AllocationCleanup, assemble
from pytest_glasshouse.report.fields import Report
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.run_plan import TallyRecord
from pytest_glasshouse.wire.tokens import public_text
from tests.numpy_guest.archive import numpy_provider
from tests.numpy_guest.bytecode import keep_in_cache, use_kept
from tests.rounds.conftest import short_row
from tests.unit.report import example

RUN_ID = "20261120-170000-9f3c"
#: What this build does not see; a row is measured nevertheless, and not publishable.
WAIVED = {"memory scanned clean": "not required here"}


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """What a reader gets, and the keys a reader trusts. `report_key` is the publisher's own.

    `server_key` is the attestation server's: a test signs with it what the server would have, had it seen something else.
    """

    document: Any
    bundle: bytes
    report: Path
    bundle_path: Path
    trust: Trust
    report_key: Ed25519PrivateKey
    server_key: Ed25519PrivateKey


def record_of(outcome: Outcome) -> Record:
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
    broker, lossy = (
        numpy_broker(RUN_ID, directory / "broker"),
        numpy_broker(RUN_ID + "-b", directory / "lossy", "raw-callback-lost"),
    )
    host_attestation = HostAttestation()
    rows = [
        (broker, short_row(name="one", rounds=2)),
        (broker, short_row(name="two", order="protected-first")),
        (broker, short_row(name="turns", order="interleaved", target_s=0.2)),
        (broker, short_row(name="null", order="interleaved", target_s=0.2, null=True)),
        (lossy, short_row(name="lost-callback", order="protected-first")),
    ]
    cleanups: list[dict[str, Any]] = []
    planned = tuple((row.row_id, row.rounds) for _, row in rows)
    try:
        records = [record_of(carried_out(each, row, host_attestation, planned)) for each, row in rows]
        tally = host_attestation.tally(RUN_ID)
        assert host_attestation._embedded is not None
        (directory / "server.key").write_bytes(host_attestation._embedded.server._signing.private_bytes_raw())
    finally:
        host_attestation.close()
        for each in (broker, lossy):
            cleanups += each.end_all().allocations
    reasons = [record["record"].get("reason") for record in records]
    assert [record["list"] for record in records] == ["rows", "rows", "rows", "nullRows", "excludedResults"], reasons
    document = document_of(records, cleanups, tally, key=key)
    publish(document, report=directory / "out" / "run.json", run_directory=directory / "run", key=key)


def document_of(
    records: Sequence[Record], cleanups: Sequence[dict[str, Any]], tally: TallyRecord, *, key: Ed25519PrivateKey
) -> Report:
    """The report of a run with these records."""
    proven = [
        AllocationCleanup(
            provider="mock", name=each["name"], provider_instance_id=each.get("instanceId"), status="proven", reason="gone"
        )
        for each in cleanups
    ]
    facts = example.facts(run_id=RUN_ID, cleanup=tuple(proven), tallies=(tally,))
    return assemble(facts, records, tamper=example.tamper(), key=key)


def numpy_broker(run_id: str, run_dir: Path, *faults: str) -> Broker:
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
        server_key=Ed25519PrivateKey.from_private_bytes((directory / "server.key").read_bytes()),
    )


def carried_out(
    broker: Broker,
    row: RowSpec,
    host_attestation: HostAttestation,
    planned: tuple[tuple[str, int], ...],
    on_progress: Callable[[Progress], None] = lambda _moment: None,
) -> Outcome:
    """The row, on an allocation of its own, in a run of these rows."""
    grant = broker.acquire(row)
    subject = dict(example.facts().subject)
    settings = RowSettings(declared=row, run_id=RUN_ID, seed=7, subject=subject, revision=newest(), planned=planned)
    outcome: Outcome = row.run(Allocation(grant, broker, settings, on_progress), ProtectedRuntime(host_attestation), RawRunner())
    broker.release(grant)
    return outcome
