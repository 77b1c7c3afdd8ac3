"""What a run will cost, and what it has cost."""

from __future__ import annotations

import math

import pytest

from pytest_glasshouse.broker import pricing
from pytest_glasshouse.errors import BudgetError
from pytest_glasshouse.providers.base import Offer
from pytest_glasshouse.providers.lease import Lease
from pytest_glasshouse.rows.spec import RowSpec

ROWS = [RowSpec(name=f"r{n}", workload="mlp", gpu="h100", order="raw-first", target_s=1800.0, rounds=n) for n in (1, 2)]
OFFER = Offer(provider="runpod", gpu_model="GPU", price_usd_per_hour=2.0)


def _lease(price: float, began: float, **fields: float) -> Lease:
    return Lease(name="n", provider="runpod", price_usd_per_hour=price, intent_at=began, **fields)  # type: ignore[arg-type]


def test_rows_that_share_an_allocation_boot_once() -> None:
    shared = pricing.quote([(row, OFFER) for row in ROWS], shared=True)
    apart = pricing.quote([(row, OFFER) for row in ROWS], shared=False)
    once = (pricing.BOOT_S + pricing.CLEANUP_S) / 3600 * 2.0
    assert apart.cost_usd - shared.cost_usd == pytest.approx(once)
    assert shared.cost_usd == pytest.approx(once + sum(map(pricing.row_seconds, ROWS)) / 3600 * 2.0)


def test_every_round_and_both_legs_are_paid() -> None:
    assert pricing.row_seconds(ROWS[1]) == 2 * pricing.row_seconds(ROWS[0]) == 4 * (5.0 + 1800.0 + pricing.SETUP_S)


def test_estimate_above_the_budget_is_refused() -> None:
    quote = pricing.quote([(ROWS[0], OFFER)], shared=True)
    quote.check(None)
    quote.check(quote.cost_usd)
    with pytest.raises(BudgetError, match="nothing was rented"):
        quote.check(quote.cost_usd - 0.01)


def test_all_allocations_together_are_held_against_the_budget() -> None:
    """Two at 2 USD since an hour: 4 are spent, and what is left of 6 lasts half an hour."""
    leases = [_lease(2.0, 0.0), _lease(2.0, 0.0)]
    assert pricing.spent_usd(leases, 3600.0) == 4.0
    assert pricing.seconds_left(leases, budget_usd=6.0, now=3600.0) == 1800.0


def test_ended_allocation_costs_no_more_and_what_it_cost_stays_spent() -> None:
    leases = [_lease(2.0, 0.0, quiet_at=1800.0), _lease(1.0, 0.0, gone_at=3600.0)]
    assert pricing.spent_usd(leases, 99_999.0) == 2.0
    assert pricing.seconds_left(leases, budget_usd=5.0, now=99_999.0) == math.inf


def test_allocation_that_was_not_created_costs_nothing() -> None:
    assert pricing.spent_usd([Lease(name="n", provider="runpod", price_usd_per_hour=9.0, void=True)], 1e9) == 0.0


def test_table_names_every_allocation_and_what_has_no_offer() -> None:
    quote = pricing.quote([(ROWS[0], OFFER)], shared=True, unavailable=("pro6000-900s",), required="40 GB of disk")
    lines = list(pricing.table(quote, budget_usd=5.0))
    assert lines[1].split() == ["runpod", "GPU", "1", "1:11", "h", "2.00", f"{quote.cost_usd:.2f}"]
    assert lines[2:] == [
        "no offer now: pro6000-900s",
        "each machine has at least: 40 GB of disk",
        f"estimate {quote.cost_usd:.2f} USD; budget 5.00 USD, enforced while it runs",
    ]


def test_an_allocation_of_several_gpus_is_a_line_of_its_own_that_says_how_many() -> None:
    """Its price is of all of them together."""
    two = RowSpec(name="two", workload="mlp", gpu="h100", gpus=2, order="raw-first", target_s=60.0)
    both = Offer(provider="runpod", gpu_model="GPU", price_usd_per_hour=4.0, gpus=2)
    quoted = pricing.quote([(ROWS[0], OFFER), (two, both)], shared=True)
    assert [(line.gpus, line.price_usd_per_hour) for line in quoted.lines] == [(1, 2.0), (2, 4.0)]
    shown = "\n".join(pricing.table(quoted, budget_usd=None))
    assert "2 x GPU" in shown
