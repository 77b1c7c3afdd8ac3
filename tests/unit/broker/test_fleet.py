"""Ending allocations at a provider that costs money, and proving it."""

from __future__ import annotations

import pytest

from pytest_glasshouse.errors import (
    InfrastructureError,
    ProviderError,
    TerminateError,
)
from pytest_glasshouse.providers.base import Instance, SshAccess
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import OTHER, ROW, FakeTime, Scripted, changed


def test_terminate_that_is_refused_is_tried_again(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    rented.script["terminate"] = [TerminateError("500"), TerminateError("500")]
    assert broker.end_all().status == "proven"
    assert rented.calls.count("terminate pod1") == 3


def test_terminate_that_is_accepted_and_does_nothing_is_tried_again(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    keep = rented.alive["pod1"]

    def silent(instance_id: str) -> None:
        rented.script["get"] = [lambda one: rented.alive.update({one: keep})]

    rented.script["terminate"] = [silent]
    assert broker.end_all().status == "proven"
    assert rented.calls.count("terminate pod1") >= 2


def test_terminate_that_never_works_is_a_leak_with_its_name(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    rented.script["terminate"] = [TerminateError("500")] * 500
    cleanup = broker.end_all()
    assert (cleanup.status, grant.allocation_id in cleanup.detail) == ("leak", True)
    rented.script["terminate"].clear()
    assert broker.end_all().status == "proven"


def test_listing_that_fails_is_never_zero(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    rented.script["list"] = [ProviderError("503")] * 500
    assert broker.end_all().status == "unproven"
    assert rented.billing() == set()
    rented.script["list"].clear()
    assert broker.end_all().status == "proven"


def test_pod_that_comes_back_after_its_end_is_ended_again(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    back = rented.alive["pod1"]

    def comes_back() -> None:
        rented.alive["pod1"] = back
        rented.died.pop("pod1")

    rented.script["list"] = [None, comes_back]
    assert broker.end_all().status == "proven"


def test_proof_takes_three_looks_over_a_minute(make_broker: MakeBroker, rented: Scripted, time: FakeTime) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    began = time.now
    cleanup = broker.end_all()
    assert (cleanup.status, time.now - began >= 60) == ("proven", True)
    assert "3 complete listings" in str(cleanup.allocations[0]["detail"])


def test_listing_that_never_showed_it_proves_nothing(make_broker: MakeBroker, rented: Scripted) -> None:
    """The positive control: a wrong account or filter shows an empty list too."""
    rented.hidden = {"pod1"}
    broker = make_broker()
    broker.acquire(ROW)
    assert broker.end_all().status == "unproven"


def test_signal_ends_everything_before_anything_else(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    broker.acquire(ROW)
    broker.signal_end()
    assert rented.billing() == set()
    with pytest.raises(InfrastructureError, match="ending"):
        broker.acquire(OTHER)


def test_loss_of_a_pod_has_the_providers_reason(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    assert broker.loss_reason(grant)[0] == "unreachable"
    rented.vanish(grant.instance_id)
    assert broker.loss_reason(grant) == ("lost", "the provider says that the allocation is gone")


def test_pod_that_is_listed_at_another_address_was_restarted(make_broker: MakeBroker, rented: Scripted) -> None:
    broker = make_broker()
    grant = broker.acquire(ROW)
    changed(rented, grant.instance_id, access=SshAccess(host="pod.invalid", port=33033))
    assert broker.loss_reason(grant)[0] == "lost"
    assert ("restarted" in broker.loss_reason(grant)[1], "33033" in broker.loss_reason(grant)[1]) == (True, False)


def test_end_of_a_boot_is_an_event_like_its_beginning(make_broker: MakeBroker) -> None:
    """Or what shows it would show it for ever."""
    events: list[tuple[str, str]] = []
    grant = make_broker(emit=lambda name, what: events.append((name, what))).acquire(ROW)
    assert (grant.allocation_id, "bootstrap") in events
    assert events[-1] == (grant.allocation_id, "")


def test_instances_of_other_runs_are_left_alone(make_broker: MakeBroker, rented: Scripted) -> None:
    """Another run of the same account is not disturbed."""
    other = Instance(instance_id="elsewhere", name="glasshouse-other-1-1999999999", state="running")
    rented.alive["elsewhere"] = other
    broker = make_broker()
    broker.acquire(ROW)
    assert broker.end_all().status == "proven"
    assert "elsewhere" in rented.alive


def test_signal_right_after_the_create_leaves_a_proof_possible(make_broker: MakeBroker, rented: Scripted) -> None:
    """Ended before any listing was read, its absence later would prove nothing: it is listed first."""
    broker = make_broker()

    def interrupted(_instance_id: str) -> None:
        broker.signal_end()

    rented.script["list"] = [ProviderError("503")]
    rented.script["get"] = [interrupted]
    with pytest.raises(InfrastructureError):
        broker.acquire(ROW)
    assert broker.end_all().status == "proven"
