"""The ledger of leases: what may still be billing, and nothing secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_glasshouse.broker.lease_ledger import read
from pytest_glasshouse.providers.lease import parse_name
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import ROW, Scripted


def test_ledger_lists_what_may_still_be_billing(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    leases, bases = read(tmp_path / "ledger.jsonl")
    lease = leases[grant.allocation_id]
    assert (lease.instance_ids, lease.seen_listed, lease.over, lease.ambiguous) == ({"pod1"}, True, False, False)
    assert bases == {grant.allocation_id: rented.base_url}
    broker.end_all()
    assert read(tmp_path / "ledger.jsonl")[0][grant.allocation_id].over


def test_intent_alone_means_that_it_may_exist(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    seen: list[bool] = []
    rented.script["create"] = [lambda name: seen.append(read(tmp_path / "ledger.jsonl")[0][name].ambiguous)]
    make_broker().acquire(ROW)
    assert seen == [True]


def test_incomplete_line_of_a_killed_run_hides_no_other(make_broker: MakeBroker, tmp_path: Path) -> None:
    grant = make_broker().acquire(ROW)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"step": "gone", "name": "' + grant.allocation_id)
    assert not read(tmp_path / "ledger.jsonl")[0][grant.allocation_id].over


def test_ledger_holds_neither_keys_nor_endpoints(make_broker: MakeBroker, tmp_path: Path) -> None:
    make_broker().acquire(ROW)
    text = (tmp_path / "ledger.jsonl").read_text()
    assert ("s3cret" in text, "pod.invalid" in text) == (False, False)


def test_allocation_name_holds_its_run_and_its_deadline() -> None:
    parsed = parse_name("glasshouse-20261121-023400-66138d-12-1764000000")
    assert parsed is not None
    assert (parsed.run_id, parsed.number, parsed.deadline) == ("20261121-023400-66138d", 12, 1764000000)
    assert [parse_name(other) for other in ("mine", "glasshouse-x", "glasshouse-a-1-17", "glasshouse-a-1-1764000000x")] == [
        None
    ] * 4


@pytest.mark.parametrize("unreadable", ["price", "at", "deadline"])
def test_line_whose_times_or_price_cannot_be_read_hides_no_allocation(tmp_path: Path, unreadable: str) -> None:
    """What is not in the ledger is not ended."""
    intent = {"step": "intent", "name": "a", "provider": "runpod", "base": "", "price": 1.0, "at": 5.0, "deadline": 9.0}
    created = {"step": "created", "name": "a", "instance": "i1", "at": "yesterday"}
    lines = [json.dumps(each) for each in ({**intent, unreadable: None}, created)]
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines))
    lease = read(tmp_path / "ledger.jsonl")[0]["a"]
    assert (lease.instance_ids, lease.over, lease.gone_at) == ({"i1"}, False, None)
    assert all(isinstance(each, float) for each in (lease.price_usd_per_hour, lease.intent_at, lease.deadline))
