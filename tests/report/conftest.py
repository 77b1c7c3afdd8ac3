"""One real run, made once: two rows of two rounds and one that was excluded, on the mock provider, published as the face does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pytest_glasshouse.invariants import judge
from pytest_glasshouse.legs.outcome import Outcome
from pytest_glasshouse.legs.results import results
from pytest_glasshouse.legs.stage import Allocation, LegSettings, ProtectedRuntime, RawRunner
from pytest_glasshouse.legs.trustees import Trustees
from pytest_glasshouse.providers.broker import Broker, BrokerOptions
from pytest_glasshouse.report.authenticity import Trust
from pytest_glasshouse.report.document import AllocationCleanup, assemble
from pytest_glasshouse.report.record import Record, RecordSettings, build_record
from pytest_glasshouse.report.writer import publish
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.tokens import public_text
from tests.rounds.conftest import short_row
from tests.unit.report import example

RUN_ID = "20261120-170000-9f3c"
#: What this build does not see; a row is measured nevertheless, and not publishable.
WAIVED = {"memory scanned clean": "not required here"}


@dataclass(frozen=True, kw_only=True)
class RealRun:
    """What a stranger gets, and the keys a reader trusts. `report_key` is the publisher's own."""

    document: dict[str, Any]
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
def real_run(tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    """Carried out, judged, sealed and published."""
    directory = tmp_path_factory.mktemp("real")
    broker = Broker(BrokerOptions(provider="mock", run_id=RUN_ID, run_dir=directory / "broker"))
    lossy = Broker(BrokerOptions(provider="mock", run_id=RUN_ID + "-b", run_dir=directory / "lossy", faults=("raw-callback-lost",)))
    trustees = Trustees()
    rows = [
        (broker, short_row(name="one", rounds=2)),
        (broker, short_row(name="two", order="protected-first", rounds=2)),
        (lossy, short_row(name="lost-callback", order="protected-first")),
    ]
    cleanups = []
    try:
        records = [_record(_carried_out(each, row, trustees)) for each, row in rows]
    finally:
        trustees.close()
        for each in (broker, lossy):
            cleanups += each.end_all().allocations
    assert [record["list"] for record in records] == ["rows", "rows", "excludedResults"], records
    proven = [
        AllocationCleanup(provider="mock", name=each["name"], provider_instance_id=each.get("instanceId"), status="proven", reason="gone")
        for each in cleanups
    ]
    key = Ed25519PrivateKey.generate()
    document = assemble(example.facts(run_id=RUN_ID, cleanup=tuple(proven)), records, tamper=example.tamper(), key=key)
    published = publish(document, report=directory / "out" / "run.json", run_directory=directory / "run", key=key)
    named = {public_text(key.public_key()), *document["keys"]["servers"], *document["keys"]["owners"]}
    return RealRun(
        document=json.loads(published.report.read_bytes()),
        bundle=published.bundle.read_bytes(),
        report=published.report,
        bundle_path=published.bundle,
        trust=Trust(keys=frozenset(named)),
        report_key=key,
    )


def _carried_out(broker: Broker, row: RowSpec, trustees: Trustees) -> Outcome:
    grant = broker.acquire(row)
    wishes = LegSettings(declared=row, run_id=RUN_ID, seed=7)
    outcome: Outcome = row.run(Allocation(grant, broker, wishes, lambda _: None), ProtectedRuntime(trustees), RawRunner())
    broker.release(grant)
    return outcome


Changed = Callable[[dict[str, Any]], None]
