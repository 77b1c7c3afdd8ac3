"""A listing that may be a part of the whole: what it shows is ended, what it does not show is not proven to be gone."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pytest_glasshouse.broker.cleanup_proof import Termination
from pytest_glasshouse.broker.timing import Timing
from pytest_glasshouse.errors import AmbiguousCreateError
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.providers.listing import Listing, doubt_in
from tests.unit.broker.conftest import MakeBroker
from tests.unit.broker.scripted import ROW, FakeTime, Scripted, appearing

TIMING = Timing(poll_s=5.0, search_s=30.0, settle_s=10.0, give_up_s=40.0)


def test_an_incomplete_listing_ends_what_it_shows_and_proves_nothing(time: FakeTime) -> None:
    """And once it is whole again, the same lease is proven."""
    provider = Scripted(time)
    made = provider.make("glasshouse-x-1-1900000000")
    genuine, doubts = provider.list, ["pages"] * 4
    provider.list = lambda: Listing(genuine(), doubt=doubts.pop() if doubts else "")  # type: ignore[method-assign]
    lease = Lease(name=made.name, provider="runpod", intent_at=time.now, instance_ids={made.instance_id})
    termination = Termination(
        [lease], providers={"runpod": cast("Any", provider)}, timings={"runpod": TIMING}, clock=time.clock, ledger=None
    )
    assert not termination.poll()
    assert provider.billing() == set()
    (verdict,) = termination.verdicts()
    assert (verdict.status, "may not be the whole: pages" in verdict.reason) == ("unproven", True)
    doubts += ["pages"] * 1000
    (verdict,) = termination.prove()
    assert verdict.status == "unproven"
    doubts.clear()
    (verdict,) = termination.prove()
    assert verdict.status == "proven"


def test_an_incomplete_listing_does_not_prove_that_a_lost_create_made_nothing(
    make_broker: MakeBroker, rented: Scripted, time: FakeTime
) -> None:
    rented.script["create"] = [AmbiguousCreateError("lost")]
    genuine = rented.list
    rented.list = lambda: Listing(genuine(), doubt="pages")  # type: ignore[method-assign]
    broker = make_broker()
    with pytest.raises(AmbiguousCreateError, match="may not be the whole: pages"):
        broker.acquire(ROW)
    cleanup = broker.end_all()
    assert (cleanup.status, "never existed" in cleanup.detail) == ("unproven", False)


def test_a_lost_create_is_found_by_its_name_on_an_incomplete_listing(make_broker: MakeBroker, rented: Scripted) -> None:
    rented.script["create"] = [appearing(rented, error=AmbiguousCreateError("lost"))]
    genuine = rented.list
    rented.list = lambda: Listing(genuine(), doubt="pages")  # type: ignore[method-assign]
    broker = make_broker()
    broker.acquire(ROW)
    assert doubt_in(broker.listing()) == "pages"
    assert broker.end_all().status == "unproven"
    assert rented.billing() == set()
