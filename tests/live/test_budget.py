"""A budget that is reached in the middle of a leg: everything ends at once, and nothing unseen is reported as held."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pytest_glasshouse.broker.timing import SIMULATED
from tests.live.conftest import Rental

BUDGET_USD = 20.0
USD_PER_HOUR = 25.0
#: How long the end may take: far longer than it does on any machine.
RESERVE_S = 600.0


@pytest.mark.parametrize("rental", ["runpod-rest"], indirect=True)
def test_budget_that_is_reached_in_a_leg_ends_the_run_with_its_report(rental: Rental) -> None:
    """The provider bills a hundred times what it offered, so that the estimate is far too low.

    In the leg, the clocks go forward to the moment from which on the budget is only enough for the end.
    """
    rental.server.cloud.surcharge = USD_PER_HOUR / rental.server.cloud.prices["NVIDIA RTX A4000"]
    rental.timing = replace(SIMULATED, reserve_s=RESERVE_S)
    rental.rows = [("long", "a4000", 120.0)]

    def spend() -> None:
        rental.until_training()
        rental.put_clocks_forward(BUDGET_USD / USD_PER_HOUR * 3600 - RESERVE_S)

    ran = rental.run("--budget", f"{BUDGET_USD:g}", meanwhile=spend)
    assert ran.code == 11, ran.output
    assert "the budget of 20 USD is reached" in ran.output
    assert rental.server.cloud.billing() == ()
    assert rental.server.cloud.cost_usd() <= BUDGET_USD
    assert (ran.report["rows"], ran.report["cleanup"]["status"]) == ([], "proven")
    (row,) = ran.report["excludedResults"]
    # The agent may still sign that the leg was killed, before it is killed itself: that shows no zeroized state either.
    assert row["runtimeState"] in ("terminated", "unseen")
    assert not row["publishable"]
    assert "the budget of 20 USD is reached" in json.dumps(row)
