"""Renting and ending at a provider that costs money, answer by answer."""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.broker_socket import BrokerClient, BrokerServer
from pytest_glasshouse.errors import (
    BudgetError,
    ConfigurationError,
)
from pytest_glasshouse.providers.lease import parse_name
from tests.limits import HANG_S
from tests.seen_waiting import SeenWaiting
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import OTHER, ROW, Agents, FakeTime, Scripted


def test_rows_of_one_gpu_share_one_allocation_one_after_the_other(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    first = broker.acquire(ROW)
    broker.release(first)
    assert broker.acquire(OTHER).allocation_id == first.allocation_id


def test_a_row_over_several_nodes_is_refused_where_an_allocation_is_one_machine(
    make_broker: MakeBroker, rented: Scripted
) -> None:
    """It would be rented, and pay for one machine that cannot run it."""
    with pytest.raises(ConfigurationError, match="field nodes: expected 1 on provider"):
        make_broker().acquire(dataclasses.replace(ROW, gpus=2, nodes=2))
    assert rented.billing() == set()


def test_allocation_per_row_ends_with_its_row(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(allocation="row")
    first = broker.acquire(ROW)
    second = broker.acquire(OTHER)
    assert first.instance_id != second.instance_id
    broker.release(first)
    assert rented.billing() == {second.instance_id}


def test_dead_worker_loses_its_pod_and_the_next_row_rents_another(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW, worker="gw0")
    broker.abandon("gw0")
    assert rented.billing() == set()
    assert broker.acquire(OTHER, worker="gw1").instance_id == "pod2"


def test_workers_on_different_gpus_do_not_wait_for_each_other(make_broker: MakeBroker, rented: Scripted) -> None:
    """Rows fan out over allocations; on one allocation they run one after the other."""
    broker = make_broker()
    broker._fleet.changed = changed = SeenWaiting()
    server = BrokerServer(broker, on_event=lambda _event: None)
    clients = [BrokerClient(server.address, worker=f"gw{number}") for number in range(3)]
    first = clients[0].acquire(ROW)
    elsewhere = clients[1].acquire(dataclasses.replace(ROW, gpu="a4000"))
    assert len({first.instance_id, elsewhere.instance_id}) == len(rented.billing()) == 2
    waiting: list[str] = []
    third = threading.Thread(target=lambda: waiting.append(clients[2].acquire(OTHER).instance_id))
    assert not changed.waited.is_set()
    third.start()
    assert changed.waited.wait(HANG_S)
    assert waiting == []
    assert clients[1].loss_reason(elsewhere)[0] == "unreachable"
    clients[0].release(first)
    third.join(timeout=HANG_S)
    assert waiting == [first.instance_id]
    for client in clients:
        client.close()
    server.close()


def test_account_key_is_a_forbidden_value_wherever_it_came_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_text('[default]\napi_key = "a-key-from-a-file"\n')
    (tmp_path / ".runpod" / "config.toml").chmod(0o600)
    for name in ("RUNPOD_API_KEY", "GLASSHOUSE_RUNPOD_API", "RUNPOD_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    image = "registry.example/guest@sha256:" + "0" * 64
    broker = Broker(BrokerOptions(provider="runpod", run_id="unit", run_dir=tmp_path, image=image))
    assert "a-key-from-a-file" in broker.secrets()


def test_everything_is_priced_before_anything_is_rented(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(budget_usd=0.01)
    broker.plan([ROW, OTHER])
    with pytest.raises(BudgetError, match=r"the estimate is 0\.\d\d USD and the budget 0\.01 USD: nothing was rented"):
        broker.quote()
    assert rented.calls == []


def test_each_row_may_go_where_it_was_published(make_broker: MakeBroker, rented: Scripted) -> None:
    """`--provider row`: what runs on this machine costs nothing and is not priced."""
    broker = make_broker(provider="row")
    broker.plan([dataclasses.replace(ROW, provider="runpod"), dataclasses.replace(OTHER, provider="mock")])
    quote = broker.quote()
    assert (broker.rents, [(line.provider, line.rows) for line in quote.lines]) == (True, [("runpod", 1)])
    assert broker.acquire(dataclasses.replace(ROW, provider="runpod")).provider == "runpod"


def test_budget_ends_every_allocation_at_once(make_broker: MakeBroker, rented: Scripted, time: FakeTime, agents: Agents) -> None:
    """Two USD per hour each: an hour of two allocations is four USD, and the cost of ending them is reserved."""
    broker = make_broker(budget_usd=4.0, allocation="row")
    grants = [broker.acquire(ROW), broker.acquire(OTHER)]
    time.now += 3500
    broker.check_limits()
    assert rented.billing() == {"pod1", "pod2"}
    assert broker.spent_usd() == pytest.approx(4.0 * 3500 / 3600, abs=0.01)
    time.now += 80
    broker.check_limits()
    assert rented.billing() == set()
    assert all(broker.loss_reason(grant)[0] == "ended" for grant in grants)
    assert all("the budget of 4 USD is reached" in broker.loss_reason(grant)[1] for grant in grants)
    assert sorted(agents.shutdowns) == sorted(grant.allocation_id for grant in grants)
    with pytest.raises(BudgetError):
        broker.acquire(ROW)
    assert "budget" in broker.over_budget


def test_deadline_in_the_name_is_never_later_than_the_money_lasts(make_broker: MakeBroker, time: FakeTime) -> None:
    """The name alone is enough to end it in time, after every process was killed."""
    grant = make_broker(budget_usd=1.0).acquire(ROW)
    parsed = parse_name(grant.allocation_id)
    assert parsed is not None
    assert 1799 <= parsed.deadline - 1_800_000_000 <= 1800


def test_allocation_past_its_total_deadline_is_ended(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker(budget_usd=None)
    grant = broker.acquire(ROW)
    time.now += 24 * 3600 + 1
    broker.check_limits()
    assert rented.billing() == set()
    assert "total deadline" in broker.loss_reason(grant)[1]
