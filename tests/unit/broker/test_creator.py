"""Creating and booting at a provider that costs money, answer by answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    BootTimeoutError,
    CredentialsError,
    InfrastructureError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    WrongGpuError,
)
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import ROW, Agents, FakeTime, Scripted, appearing, changed, ledger_steps, showing


def test_cheapest_offer_is_rented_and_its_end_is_proven(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    assert (grant.remote, grant.simulated, grant.dry_run, grant.gpu_model) == (True, False, False, ROW.gpu_model)
    broker.release(grant)
    cleanup = broker.end_all()
    assert cleanup.status == "proven"
    assert cleanup.allocations[0]["instanceId"] == grant.instance_id
    assert rented.calls == [f"create {grant.allocation_id} 2.0", f"terminate {grant.instance_id}"]
    assert ledger_steps(tmp_path) == ["intent", "created", "listed", "ended", "gone"]


def test_next_offer_is_tried_under_a_name_of_its_own(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [NoCapacityError("sold out"), None]
    grant = make_broker().acquire(ROW)
    creates = [call.split() for call in rented.calls]
    assert [offer for _, _, offer in creates] == ["2.0", "3.0"]
    assert creates[0][1] != creates[1][1] == grant.allocation_id


def test_row_without_capacity_anywhere_rents_nothing(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [NoCapacityError("sold out"), NoCapacityError("sold out")]
    broker = make_broker()
    with pytest.raises(NoCapacityError):
        broker.acquire(ROW)
    assert broker.end_all().status == "nothing-rented"


def test_offer_above_the_price_cap_is_not_taken(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker(max_price=1.5)
    with pytest.raises(NoCapacityError, match=r"at up to 1\.5 USD per hour; the cheapest costs 2\.00"):
        broker.acquire(ROW)
    assert rented.calls == []


def test_refused_credentials_are_an_error_and_nothing_is_rented(
    make_broker: MakeBroker, rented: Scripted, tmp_path: Path
) -> None:
    rented.script["create"] = [CredentialsError("the key is not accepted")]
    broker = make_broker()
    with pytest.raises(CredentialsError):
        broker.acquire(ROW)
    assert broker.end_all().status == "nothing-rented"
    assert ledger_steps(tmp_path) == ["intent", "not-created"]


@pytest.mark.parametrize("retry_after_s", [None, 42.0])
def test_create_that_is_rate_limited_waits_and_asks_again(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime, retry_after_s: float | None
) -> None:
    rented.script["create"] = [RateLimitedError("slow down", retry_after_s=retry_after_s)]
    began = time.now
    make_broker().acquire(ROW)
    assert time.now - began >= (retry_after_s or rented.poll_s)


def test_lost_answer_is_found_by_name_and_never_asked_again(make_broker: MakeBroker, rented: Scripted, tmp_path: Path) -> None:
    rented.script["create"] = [appearing(rented, error=AmbiguousCreateError("lost"))]
    broker = make_broker()
    grant = broker.acquire(ROW)
    assert (grant.instance_id, sum(call.startswith("create") for call in rented.calls)) == ("pod1", 1)
    assert broker.end_all().status == "proven"
    assert "adopted" in ledger_steps(tmp_path)


def test_create_that_is_never_found_is_searched_for_three_minutes(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime
) -> None:
    """Listings lag: a listing that does not show it a minute later proves nothing."""
    rented.script["create"] = [AmbiguousCreateError("the answer was lost")]
    began, broker = time.now, make_broker()
    with pytest.raises(AmbiguousCreateError, match=r"Searched by its name for 1[89]"):
        broker.acquire(ROW)
    assert time.now - began >= 180
    cleanup = broker.end_all()
    assert (cleanup.status, "never existed" in str(cleanup.allocations[0]["detail"])) == ("proven", True)


def test_ambiguous_create_stays_unproven_while_the_listing_fails(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime
) -> None:
    """A listing that did not answer is not a listing that shows nothing."""
    rented.script["create"] = [AmbiguousCreateError("the answer was lost")]
    rented.script["list"] = [ProviderError("503")] * 500
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError, match="the last listing failed: 503"):
        broker.acquire(ROW)
    cleanup = broker.end_all()
    assert (cleanup.status, "503" in cleanup.detail) == ("unproven", True)
    rented.script["list"].clear()
    assert broker.end_all().status == "proven"


def test_create_that_lands_late_is_found_and_ended(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    rented.script["create"] = [AmbiguousCreateError("the answer was lost")]
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError):
        broker.acquire(ROW)
    name = rented.calls[0].split()[1]
    rented.script["list"] = [None, lambda: rented.make(name)]
    cleanup = broker.end_all()
    assert (cleanup.status, cleanup.allocations[0]["instanceId"]) == ("proven", "pod1")


def test_name_that_exists_twice_ends_both_and_fails_the_row(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [appearing(rented, twice=True, error=AmbiguousCreateError("lost"))]
    broker = make_broker()
    with pytest.raises(InfrastructureError, match="exists 2 times"):
        broker.acquire(ROW)
    assert rented.billing() == set()
    assert broker.end_all().status == "proven"


def test_interrupt_inside_the_create_call_is_searched_for(make_broker: MakeBroker, rented: Scripted) -> None:
    """Ctrl-C while the request is on its way: the answer is lost, the pod is not."""
    rented.script["create"] = [appearing(rented, error=KeyboardInterrupt())]
    broker = make_broker()
    with pytest.raises(KeyboardInterrupt):
        broker.acquire(ROW)
    assert rented.billing() == {"pod1"}
    assert broker.end_all().status == "proven"


def test_instance_named_in_a_refusal_is_ended(make_broker: MakeBroker, rented: Scripted) -> None:
    def refuse(name: str) -> None:
        raise AmbiguousCreateError("refused, and made", instance_id=rented.make(name).instance_id)

    rented.script["create"] = [refuse]
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError):
        broker.acquire(ROW)
    assert rented.billing() == set()


def test_pod_that_never_runs_is_ended_at_the_boot_deadline(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker(boot_timeout_s=100.0)
    began = time.now
    with (
        showing(rented, state="pending", access=None),
        pytest.raises(
            BootTimeoutError, match=r"expected it to run within 100 s, saw state .*last line of its log: layer does not exist"
        ),
    ):
        broker.acquire(ROW)
    assert time.now - began < 110
    assert rented.billing() == set()


@pytest.mark.parametrize("state", ["failed", "stopped", "lost", "ended"])
def test_pod_in_a_state_that_never_runs_is_ended_at_once(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime, state: str
) -> None:
    """A stopped one bills for its disk, and no wait changes that."""
    began = time.now
    with showing(rented, state=state), pytest.raises(InfrastructureError, match="the provider says that it is RUNNING"):
        make_broker().acquire(ROW)
    assert (time.now - began < 10, "terminate pod1" in rented.calls) == (True, True)


def test_pod_that_vanishes_while_it_boots_is_infrastructure(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["get"] = [rented.vanish]
    with pytest.raises(InfrastructureError, match="is gone"):
        make_broker().acquire(ROW)


def test_unknown_state_is_waited_for(make_broker: MakeBroker, rented: Scripted) -> None:
    with showing(rented, state="unknown", raw_state="TRANSMOGRIFYING"):
        rented.script["get"] = [None, lambda one: changed(rented, one, state="running")]
        assert make_broker().acquire(ROW).instance_id == "pod1"


def test_passing_provider_errors_while_booting_are_waited_out(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["get"] = [ProviderError("HTML 502"), RateLimitedError("429", retry_after_s=7.0), ProviderError("503")]
    assert make_broker().acquire(ROW).instance_id == "pod1"


def test_other_gpu_than_promised_is_ended_before_any_leg(make_broker: MakeBroker, rented: Scripted, agents: Agents) -> None:
    agents.hello["gpuModel"] = "NVIDIA RTX A4000"
    with pytest.raises(WrongGpuError, match=r"saw NVIDIA RTX A4000\. It was ended before any leg"):
        make_broker().acquire(ROW)
    assert rented.billing() == set()


def test_other_gpu_in_the_providers_own_answer_is_ended_without_contact(
    make_broker: MakeBroker, rented: Scripted, agents: Agents
) -> None:
    rented.script["get"] = [lambda one: changed(rented, one, gpu_model="NVIDIA RTX A5000")]
    with pytest.raises(WrongGpuError):
        make_broker().acquire(ROW)
    assert agents.connected == []


def test_pod_without_gpu_stands_in_only_at_a_simulated_provider(
    make_broker: MakeBroker, rented: Scripted, agents: Agents
) -> None:
    agents.hello.update(gpuModel="CPU (some)", gpuUuid=None, device="cpu")
    with pytest.raises(WrongGpuError):
        make_broker().acquire(ROW)
    rented.simulated = True
    grant = make_broker(run_id="other").acquire(ROW)
    assert (grant.gpu_model, grant.simulated, grant.dry_run) == ("simulated (CPU)", True, True)


def test_guest_that_cannot_be_reached_is_ended(make_broker: MakeBroker, rented: Scripted, agents: Agents) -> None:
    agents.refuses = InfrastructureError("ssh: connection refused")
    with pytest.raises(InfrastructureError, match="ssh"):
        make_broker().acquire(ROW)
    assert rented.billing() == set()
