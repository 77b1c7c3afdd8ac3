"""Vast.ai is asked no faster than every ten seconds."""

from __future__ import annotations

from pytest_glasshouse.providers.base import Launch
from pytest_glasshouse.providers.credentials import VAST_URL
from pytest_glasshouse.providers.pace import Pace
from pytest_glasshouse.providers.vastai import POLL_S, VastProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.secret import Secret
from tests.loopback.providers import vastai


class Clock:
    """Time that passes only by waiting for it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def test_turns_are_an_interval_apart_and_the_first_is_at_once() -> None:
    clock = Clock()
    pace = Pace(10.0, monotonic=clock.monotonic, sleep=clock.sleep)
    pace.wait()
    clock.now += 4.0
    pace.wait()
    pace.wait()
    clock.now += 25.0
    pace.wait()
    assert clock.slept == [6.0, 10.0]


def test_each_kind_of_read_waits_ten_seconds_for_its_turn_and_an_end_never_waits() -> None:
    clock = Clock()
    with vastai(pods="none") as server:
        provider = VastProvider(
            key=Secret(server.cloud.account_key.encode()), base_url=server.url, poll_s=POLL_S, monotonic=clock.monotonic,
            sleep=clock.sleep,
        )  # fmt: skip
        row = RowSpec(name="r", workload="mlp", gpu="a4000", order="raw-first", target_s=1.0)
        made = provider.create(provider.offers(row)[0], launch=Launch(name="glasshouse-a-1-1", image="i", start=("true",)))
        provider.get(made.instance_id)
        provider.list()
        assert clock.slept == []
        provider.get(made.instance_id)
        assert clock.slept == [10.0]
        # By the time the one had waited, the other's ten seconds were over too.
        provider.list()
        assert clock.slept == [10.0]
        provider.list()
        assert clock.slept == [10.0, 10.0]
        provider.terminate(made.instance_id)
        provider.terminate(made.instance_id)
        assert clock.slept == [10.0, 10.0]


def test_the_real_vast_is_asked_every_ten_seconds_and_a_page_counts() -> None:
    provider = VastProvider(key=Secret(b"key"), base_url=VAST_URL)
    assert provider.poll_s == 10.0
    clock = Clock()
    with vastai(pods="none") as server:
        from tests.loopback.test_servers import order

        for _ in range(30):
            server.cloud.create(order(), None)
        paged = VastProvider(
            key=Secret(server.cloud.account_key.encode()), base_url=server.url, poll_s=POLL_S, monotonic=clock.monotonic,
            sleep=clock.sleep,
        )  # fmt: skip
        assert len(paged.list()) == 30
        assert clock.slept == [10.0]
        for one in server.cloud.billing():
            server.cloud.vanish(one.instance_id)
