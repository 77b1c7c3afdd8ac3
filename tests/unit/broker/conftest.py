"""A broker over a scripted provider that rents: no process, no network, a clock that only waiting moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from tests.unit.broker.scripted import Agents, FakeTime, NoReaper, Scripted

MakeBroker = Callable[..., Broker]


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def rented(time: FakeTime) -> Iterator[Scripted]:
    """A provider; nothing of it bills when the test ends."""
    provider = Scripted(time)
    yield provider
    assert provider.billing() == set()


@pytest.fixture
def agents() -> Iterator[Agents]:
    made = Agents()
    yield made
    made.close()


@pytest.fixture
def make_broker(tmp_path: Path, time: FakeTime, rented: Scripted, agents: Agents) -> Iterator[MakeBroker]:
    made: list[Broker] = []

    def make(*, emit: Callable[[str, str], None] = lambda _name, _what: None, **options: Any) -> Broker:
        fields = {"provider": "runpod", "run_id": "unit", "run_dir": tmp_path, "budget_usd": 50.0, **options}
        broker = Broker(
            BrokerOptions(**fields),
            providers={"runpod": cast("Any", rented)},
            clock=time.clock,
            connection=agents,
            emit=emit,
            start_reaper=NoReaper,
        )
        made.append(broker)
        return broker

    yield make
    for broker in made:
        broker.end_all()
