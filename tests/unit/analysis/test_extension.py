"""What a report says of an extension is what its own first rounds give, and the interval is that of the two-stage rule."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pytest_glasshouse.analysis.row_limits import log_ratios
from pytest_glasshouse.check.binding import _orders
from pytest_glasshouse.check.recompute import record_faults
from pytest_glasshouse.overhead.interval import Sampling, interval_pct
from pytest_glasshouse.rows.leg_order import leg_orders
from tests.unit.report import example

PLAN = {"rounds": 2, "halfWidthPct": "0.00000001", "maxRounds": 4}


def extended(ran: int = 4, **plan: Any) -> Any:
    seen = example.observation(rounds=ran)
    seen["plan"] = {**PLAN, **plan}
    return example.measured(rounds=2, observation=seen)


def faults(record: Any) -> dict[str, str]:
    return dict(record_faults(record, example.EXAMPLE, max_overhead_pct=None))


def test_extended_row_is_measured_and_follows_from_its_own_data() -> None:
    made = extended()

    assert made["list"] == "rows"
    row = made["record"]
    assert (row["rounds"], len(row["roundFigures"])) == (2, 4)
    extension = row["extension"]
    assert (extension["firstRounds"], extension["rounds"], extension["halfWidthPct"]) == (2, 4, 1e-8)
    assert extension["wanted"] > 4
    assert faults(row) == {}


def test_interval_of_an_extended_row_has_the_spread_of_its_first_rounds() -> None:
    row = extended()["record"]

    expected = interval_pct(log_ratios(row), level=0.95, sampling=Sampling(first_rounds=2))

    assert expected is not None
    assert row["overheadCi95Pct"] == [expected.low, expected.high]
    assert row["extension"]["firstCi95Pct"] is not None


@pytest.mark.parametrize("ran", [2, 3, 5])
def test_row_that_stopped_at_another_count_than_the_rule_gave_is_not_measured(ran: int) -> None:
    """Stopping when it looks good is what the rule is there against."""
    made = extended(ran)

    assert made["list"] == "excludedResults"
    assert made["record"]["reason"] == "not every leg of every round was measured"


def test_width_that_the_first_rounds_reach_adds_none() -> None:
    made = extended(2, halfWidthPct="50")

    assert made["list"] == "rows"
    assert made["record"]["extension"]["rounds"] == 2


@pytest.mark.parametrize(("field", "value"), [("wanted", 4), ("rounds", 3), ("firstRounds", 3), ("spreadPct", 0.0)])
def test_changed_extension_is_found(field: str, value: float) -> None:
    row = copy.deepcopy(extended()["record"])
    row["extension"][field] = value

    assert f".extension.{field}" in faults(row)


def test_orders_of_the_extension_are_those_the_plans_seed_gives() -> None:
    """Rounds that were added in a chosen order are no balanced design."""
    plan: Any = {**PLAN, "order": "raw-first", "seed": 7, "fixedOrder": False}
    drawn = [*leg_orders("raw-first", rounds=2, seed=7, fixed=False), *leg_orders("raw-first", rounds=8, seed=8, fixed=False)]
    rounds: list[Any] = [{"round": place, "order": list(order)} for place, order in enumerate(drawn, 1)]

    assert list(_orders({}, plan, rounds)) == []
    rounds[5]["order"] = list(reversed(drawn[5]))
    assert [path for path, _ in _orders({}, plan, rounds)] == [".observation.rounds[5].order"]


def test_more_rounds_than_a_row_can_have_are_a_fault_and_are_not_drawn() -> None:
    """A forged number of 2**40 took all memory."""
    many: Any = {**PLAN, "order": "raw-first", "seed": 7, "fixedOrder": False, "rounds": 2**40}
    assert list(_orders({}, many, [])) == [(".observation.plan", "gives no order of legs (ConfigurationError)")]
    design = {"legs": ["protected", "raw"], "pairs": 2**40, "resident": True}
    turns: Any = {**PLAN, "order": "interleaved", "seed": 7, "fixedOrder": False, "rounds": 1, "interleaving": design}
    assert list(_orders({}, turns, [{}])) == [(".observation.plan", "gives no order of legs (ConfigurationError)")]  # type: ignore[typeddict-item]


def test_unplanned_extension_is_found() -> None:
    row = example.measured(rounds=2)["record"]
    row["extension"] = extended()["record"]["extension"] | {"rounds": 2}

    assert ".extension" in faults(row)
