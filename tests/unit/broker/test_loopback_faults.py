"""Every fault a provider can play, on every provider, through the real clients: how it ends, the message, and that billing stops.

Broker and provider share a clock that only the broker's waiting moves, so these are the timings of a real provider. That nothing bills at the end is asserted for every test of this suite by `tests/loopback/fixtures.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_glasshouse.broker.broker import Broker, BrokerOptions
from pytest_glasshouse.broker.timing import RENTED, RENTED_SLOW, Clock
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    BootTimeoutError,
    CredentialsError,
    FundsError,
    InfrastructureError,
    LaunchRefusedError,
    NoCapacityError,
    WrongGpuError,
)
from pytest_glasshouse.providers.base import Cleanup, Grant, Provider
from pytest_glasshouse.providers.credentials import vast_key
from pytest_glasshouse.providers.vastai import POLL_S, VastProvider
from pytest_glasshouse.rows.spec import RowSpec
from tests.loopback.faults import Fault
from tests.loopback.http import LoopbackServer
from tests.loopback.manual_clock import ManualClock
from tests.loopback.providers import runpod, vastai
from tests.unit.broker.scripted import Agents, NoReaper

ROW = RowSpec(name="row", workload="mlp", gpu="a4000", order="raw-first", target_s=60.0)
ALL = ("runpod-rest", "runpod-sdk", "vastai")


@dataclass
class Rental:
    """One provider, a broker on it, and how an attempt to rent there ended."""

    server: LoopbackServer
    broker: Broker
    agents: Agents
    clock: ManualClock
    grant: Grant | None = None
    error: Exception | None = None

    def play(self, *faults: Fault) -> Rental:
        self.server.cloud.faults.add(*faults)
        try:
            self.grant = self.broker.acquire(ROW)
        except Exception as error:  # noqa: BLE001  (what it is, the test says)
            self.error = error
        return self

    def end(self) -> Cleanup:
        cleanup = self.broker.end_all()
        assert self.server.cloud.faults.left() == ()
        return cleanup


@pytest.fixture(params=ALL)
def rental(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rental]:
    where: str = request.param
    make = vastai if where == "vastai" else runpod
    agents = Agents()
    agents.hello["device"] = "cpu"
    clock = ManualClock()
    with make(pods="none") as server:
        server.name = where
        server.cloud.run_on(clock)
        url, key = ("VAST_URL", "VAST_API_KEY") if where == "vastai" else ("RUNPOD_API_BASE_URL", "RUNPOD_API_KEY")
        settings = {url: server.url, key: server.cloud.account_key, "GLASSHOUSE_RUNPOD_API": where.partition("-")[2]}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        options = BrokerOptions(
            provider=where.partition("-")[0], run_id="unit", run_dir=tmp_path, budget_usd=5.0, allow_simulated=True,
            timing=RENTED_SLOW if where == "vastai" else RENTED, boot_timeout_s=60.0,
        )  # fmt: skip
        broker = Broker(
            options,
            providers={"vastai": _vastai(server, clock)} if where == "vastai" else {},
            clock=Clock(monotonic=clock.read, wall=clock.read, wait=clock.advance),
            connection=agents,
            start_reaper=NoReaper,
        )
        yield Rental(server, broker, agents, clock)
    agents.close()


def _vastai(server: LoopbackServer, clock: ManualClock) -> Provider:
    """It waits by that clock between two reads."""
    return VastProvider(
        key=vast_key(os.environ),
        base_url=server.url,
        environ=os.environ,
        poll_s=POLL_S,
        monotonic=clock.read,
        sleep=clock.advance,
    )


def only(*where: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("rental", where, indirect=True)


@pytest.mark.parametrize("kind", ["lost-answer", "500-after", "html-after", "null-pod"])
def test_create_whose_answer_is_lost_is_found_by_its_name(rental: Rental, kind: str) -> None:
    rental.play(Fault(kind=kind))  # type: ignore[arg-type]
    assert (rental.error, len(rental.server.cloud.rented)) == (None, 1)
    assert rental.end().status == "proven"


@only("vastai")
def test_refusal_that_names_a_contract_is_ended(rental: Rental) -> None:
    rental.play(Fault(kind="new-contract-in-error"))
    assert isinstance(rental.error, AmbiguousCreateError)
    assert (len(rental.server.cloud.rented), rental.end().status) == (1, "proven")


@pytest.mark.parametrize("kind", ["500", "html-502"])
def test_ambiguous_create_is_searched_for_and_not_repeated(rental: Rental, kind: str) -> None:
    rental.play(Fault(kind=kind))  # type: ignore[arg-type]
    assert isinstance(rental.error, AmbiguousCreateError)
    assert "Searched by its name for" in str(rental.error)
    cleanup = rental.end()
    assert (cleanup.status, "it never existed" in str(cleanup.allocations[0]["detail"])) == ("proven", True)
    assert rental.server.cloud.asked.count("create") == 1


def test_create_that_lands_after_its_failure_is_ended(rental: Rental) -> None:
    rental.play(Fault(kind="late-create", after_s=100.0))
    assert (rental.error, rental.end().status, len(rental.server.cloud.rented)) == (None, "proven", 1)


@pytest.mark.parametrize("retry_after_s", [None, 40])
def test_too_many_requests_are_retried_later(rental: Rental, retry_after_s: int | None) -> None:
    rental.play(*(Fault(kind="429", on=on, retry_after_s=retry_after_s) for on in ("create", "get", "list")))
    assert (rental.error, len(rental.server.cloud.rented)) == (None, 1)
    assert rental.end().status == "proven"


def test_a_proxys_error_pages_and_failing_listings_are_retried(rental: Rental) -> None:
    rental.play(Fault(kind="html-502", on="get"), Fault(kind="503", on="list", times=2))
    assert (rental.error, rental.end().status) == (None, "proven")


def test_no_capacity_says_that_nothing_exists(rental: Rental) -> None:
    rental.play(Fault(kind="no-capacity", times=5 if rental.server.name == "nowhere" else 1))
    assert isinstance(rental.error, NoCapacityError)
    assert "othing was created" in str(rental.error)
    assert rental.end().status == "nothing-rented"


@pytest.mark.parametrize(
    ("kind", "error"), [("no-funds", FundsError), ("bad-request", LaunchRefusedError), ("401", CredentialsError)]
)
def test_error_that_the_user_has_to_fix_is_not_retried(rental: Rental, kind: str, error: type[Exception]) -> None:
    rental.play(Fault(kind=kind))  # type: ignore[arg-type]
    assert (type(rental.error), rental.server.cloud.asked.count("create")) == (error, 1)
    assert rental.end().status == "nothing-rented"


def test_stuck_provisioning_ends_at_the_boot_deadline(rental: Rental) -> None:
    began = rental.clock.read()
    rental.play(Fault(kind="stuck"))
    assert 60 <= rental.clock.read() - began < 120
    assert isinstance(rental.error, BootTimeoutError)
    assert "within 60 s" in str(rental.error)
    assert "--glasshouse-boot-timeout" in str(rental.error)
    assert (rental.server.cloud.billing(), rental.end().status) == ((), "proven")


@only("runpod-rest", "vastai")
def test_error_state_ends_at_once(rental: Rental) -> None:
    """GraphQL shows only the desired state, so there it is a boot that never comes."""
    rental.play(Fault(kind="error-state"))
    assert isinstance(rental.error, InfrastructureError)
    assert not isinstance(rental.error, BootTimeoutError)
    assert (rental.server.cloud.billing(), rental.end().status) == ((), "proven")


def test_unknown_provider_state_is_no_error(rental: Rental) -> None:
    rental.play(Fault(kind="unknown-state"))
    assert isinstance(rental.error, BootTimeoutError)
    assert rental.end().status == "proven"


def test_other_gpu_is_ended_before_it_is_reached(rental: Rental) -> None:
    rental.play(Fault(kind="wrong-gpu"))
    assert isinstance(rental.error, WrongGpuError)
    assert (rental.agents.connected, rental.server.cloud.billing()) == ([], ())
    assert rental.end().status == "proven"


def test_pod_that_vanishes_in_use_is_lost_by_the_providers_answer(rental: Rental) -> None:
    rental.play(Fault(kind="vanish", after_s=100.0))
    assert rental.grant is not None
    assert rental.broker.loss_reason(rental.grant)[0] == "unreachable"
    rental.clock.advance(100.0)
    assert rental.broker.loss_reason(rental.grant) == ("lost", "the provider says that the allocation is gone")
    assert rental.end().status == "proven"


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_terminate_without_effect_is_repeated(rental: Rental, kind: str) -> None:
    rental.play(Fault(kind=kind, on="terminate", times=2))  # type: ignore[arg-type]
    assert (rental.error, rental.end().status) == (None, "proven")


def test_pod_that_appears_after_its_end_is_ended_again(rental: Rental) -> None:
    rental.play(Fault(kind="comes-back", on="terminate", after_s=20.0))
    assert (rental.error, rental.end().status) == (None, "proven")
    assert rental.server.cloud.asked.count("terminate") >= 2


def test_listing_that_lags_is_waited_for(rental: Rental) -> None:
    rental.play(Fault(kind="lag", on="terminate", after_s=178.0))
    assert (rental.error, rental.end().status) == (None, "proven")
    assert rental.server.cloud.list() == []


@only("runpod-rest", "vastai")
def test_second_page_is_followed_or_refused_and_never_missed(rental: Rental) -> None:
    rental.play(Fault(kind="second-page", on="list", times=2))
    assert (rental.error, rental.end().status) == (None, "proven")


@pytest.mark.parametrize("kind", ["503", "401"])
def test_listing_that_never_works_again_leaves_the_end_unproven(rental: Rental, kind: str) -> None:
    """A key that was revoked meanwhile must not read as an empty account."""
    rental.play()
    rental.server.cloud.faults.add(Fault(kind=kind, on="list", times=10_000))  # type: ignore[arg-type]
    cleanup = rental.broker.end_all()
    assert cleanup.status == "unproven"
    assert rental.grant is not None
    assert rental.grant.allocation_id in cleanup.detail
