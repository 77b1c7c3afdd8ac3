"""A guest that answered well once and does not the next time: its grant is released, whatever it answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pytest_glasshouse.broker.broker_socket import BrokerClient, BrokerServer
from pytest_glasshouse.errors import InfrastructureError, ProtocolError
from pytest_glasshouse.providers.base import Access
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.rows.spec import RowSpec
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import GPU, Agents, Scripted
from tests.unit.channel.lying_agent import HELLO, LyingAgent, frame, refused

ROW = RowSpec(name="row", workload="mlp", gpu="h100", order="raw-first", target_s=60.0)
GOOD = {**HELLO, "gpuModel": GPU, "gpuUuid": "GPU-1", "device": "cuda"}


class LyingAgents(Agents):
    """A connection to agents of which the first answers `hello` as a test sets it, and the others correctly."""

    def __init__(self) -> None:
        super().__init__()
        self.hellos: list[Any] = [GOOD]
        self._made = ExitStack()

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        sent, self.hellos = self.hellos, [{**GOOD, "agentNonce": "1" * 32}]
        return self._made.enter_context(LyingAgent({"hello": sent})).address

    def close(self) -> None:
        self._made.close()
        super().close()


@pytest.fixture
def agents() -> Iterator[LyingAgents]:
    made = LyingAgents()
    yield made
    made.close()


SECOND: dict[str, Any] = {
    "a refusal": refused,
    "nothing": {},
    "another guest": {**GOOD, "agentNonce": "2" * 32},
    "a nonce that is none": {**GOOD, "agentNonce": {"x": 1}},
    "a foreign member": {**GOOD, "overheadPct": 1},
    "no frame": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "a list": frame(b"[]"),
    "no nonce": {name: value for name, value in GOOD.items() if name != "agentNonce"},
}


@pytest.mark.parametrize("lie", SECOND)
def test_a_guest_that_lies_when_a_row_reconnects_keeps_no_grant(
    lie: str, make_broker: MakeBroker, rented: Scripted, agents: LyingAgents
) -> None:
    """The next row would wait until the lease is over."""
    agents.hellos = [GOOD, SECOND[lie]]
    broker = make_broker()
    first = broker.acquire(ROW)
    broker.release(first)
    second = broker.acquire(ROW)
    assert second.allocation_id != first.allocation_id
    assert first.instance_id not in rented.billing()
    broker.release(second)
    assert broker.acquire(ROW).allocation_id == second.allocation_id


@pytest.mark.parametrize("lie", ["a refusal", "nothing", "a foreign member", "no frame"])
def test_a_guest_that_lies_at_its_first_contact_is_ended(
    lie: str, make_broker: MakeBroker, rented: Scripted, agents: LyingAgents
) -> None:
    agents.hellos = [SECOND[lie]]
    broker = make_broker()
    with pytest.raises((ProtocolError, InfrastructureError)):
        broker.acquire(ROW)
    assert rented.billing() == set()
    broker.acquire(ROW)


@pytest.mark.parametrize("error", [KeyError("x"), KeyboardInterrupt(), ZeroDivisionError()])
def test_any_error_between_claim_and_grant_releases_the_allocation(
    error: BaseException, make_broker: MakeBroker, agents: LyingAgents
) -> None:
    """An interrupt, or a programming error: the next row must not wait for a grant that no row holds."""
    broker = make_broker()
    first = broker.acquire(ROW)
    broker.release(first)
    allocation = broker._fleet.allocations[0]

    class Breaking(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise error

    breaking: Any = Breaking(allocation.hello)
    allocation.hello = breaking
    with pytest.raises(type(error)):
        broker.acquire(ROW)
    assert allocation.grant_id is None


def test_an_allocation_whose_guest_lied_to_its_row_is_ended_and_the_next_row_gets_another(
    make_broker: MakeBroker, rented: Scripted
) -> None:
    broker = make_broker()
    server = BrokerServer(broker, on_event=lambda _event: None)
    client = BrokerClient(server.address, worker="gw0")
    try:
        first = client.acquire(ROW)
        client.end(first, "the guest broke the protocol")
        assert first.instance_id not in rented.billing()
        client.release(first)
        assert client.acquire(ROW).allocation_id != first.allocation_id
    finally:
        client.close()
        server.close()


def test_a_request_that_breaks_the_broker_ends_no_other_grant(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    server = BrokerServer(broker, on_event=lambda _event: None)
    client = BrokerClient(server.address, worker="gw0")
    try:
        grant = client.acquire(ROW)
        with pytest.raises(InfrastructureError, match="broke"):
            client._ask("release", {"grant": {}})
        assert grant.instance_id in rented.billing()
        client.release(grant)
    finally:
        client.close()
        server.close()


def test_a_dead_workers_grants_are_released_though_one_cannot_be_ended(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(allocation="row")
    first, second = broker.acquire(ROW, worker="gw0"), broker.acquire(ROW, worker="gw0")
    rented.script["terminate"] = [ZeroDivisionError()]
    with pytest.raises(ZeroDivisionError):
        broker.abandon("gw0")
    assert [each.grant_id for each in broker._fleet.allocations] == [None, None]
    assert len({first.instance_id, second.instance_id} & rented.billing()) == 1
