"""A budget that is reached in the middle of a leg: everything ends at once, and nothing unseen is reported as held."""

from __future__ import annotations

import json

import pytest

from tests.live.conftest import Rental

BUDGET_USD = 20.0
USD_PER_HOUR = 3600.0


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_budget_that_is_reached_in_a_leg_ends_the_run_with_its_report(rental: Rental) -> None:
    """The provider bills a dollar a second for what it offered for cents, so that the estimate is far too low."""
    rental.server.cloud.surcharge = USD_PER_HOUR / rental.server.cloud.prices["NVIDIA RTX A4000"]
    rental.rows = [("long", "a4000", 120.0)]
    ran = rental.run("--budget", f"{BUDGET_USD:g}")
    assert ran.code == 11, ran.output
    assert "the budget of 20 USD is reached" in ran.output
    assert rental.server.cloud.billing() == ()
    assert rental.server.cloud.cost_usd() <= BUDGET_USD
    assert (ran.report["rows"], ran.report["cleanup"]["status"]) == ([], "proven")
    (row,) = ran.report["excludedResults"]
    assert (row["runtimeState"], row["publishable"]) == ("terminated", False)
    assert "the budget of 20 USD is reached" in json.dumps(row)
