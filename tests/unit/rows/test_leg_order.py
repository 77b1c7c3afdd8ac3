from __future__ import annotations

from itertools import pairwise

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows.leg_order import leg_orders, starting_orders, turn_orders

RAW_FIRST, PROTECTED_FIRST = ("raw", "protected"), ("protected", "raw")


@pytest.mark.parametrize("rounds", range(1, 13))
@pytest.mark.parametrize("named", ["raw-first", "protected-first"])
def test_first_round_has_the_named_order_and_later_ones_balance_it(named: str, rounds: int) -> None:
    for seed in range(20):
        orders = leg_orders(named, rounds=rounds, seed=seed, fixed=False)
        assert orders[0] == (RAW_FIRST if named == "raw-first" else PROTECTED_FIRST)
        assert abs(orders.count(RAW_FIRST) - orders.count(PROTECTED_FIRST)) <= 1
        assert len(orders) == rounds


def test_later_orders_are_drawn_from_the_seed() -> None:
    """Recorded and repeatable, and not the same for every seed."""
    drawn = {leg_orders("raw-first", rounds=8, seed=seed, fixed=False) for seed in range(20)}
    assert len(drawn) > 5
    assert leg_orders("raw-first", rounds=8, seed=3, fixed=False) in drawn


def test_fixed_order_keeps_the_named_one() -> None:
    assert set(leg_orders("protected-first", rounds=6, seed=1, fixed=True)) == {PROTECTED_FIRST}


def test_unknown_order_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'random': expected raw-first or protected-first or interleaved"):
        leg_orders("random", rounds=1, seed=1, fixed=False)


@pytest.mark.parametrize("rounds", range(1, 13))
def test_legs_that_take_turns_start_in_balanced_orders(rounds: int) -> None:
    """A leg that always started first would always be the longer resident one."""
    firsts = set()
    for seed in range(20):
        orders = starting_orders(("protected", "raw"), rounds=rounds, seed=seed, fixed=False)
        assert abs(orders.count(RAW_FIRST) - orders.count(PROTECTED_FIRST)) <= 1
        firsts.add(orders[0])
    assert firsts == {RAW_FIRST, PROTECTED_FIRST}


def test_null_rows_and_triples_start_every_leg_once() -> None:
    for order in starting_orders(("raw", "raw2"), rounds=6, seed=3, fixed=False):
        assert sorted(order) == ["raw", "raw2"]
    orders = starting_orders(("protected", "raw", "raw2"), rounds=12, seed=3, fixed=False)
    assert {tuple(sorted(order)) for order in orders} == {("protected", "raw", "raw2")}
    assert {order.index("raw2") for order in orders} == {0, 1, 2}


def test_each_pair_is_drawn_by_itself_and_from_the_seed() -> None:
    """A fixed alternation and a disturbance of the same period cannot be separated."""
    orders = turn_orders(("protected", "raw"), number=1, pairs=400, seed=9)
    first = [order[0] for order in orders]
    assert 160 < first.count("raw") < 240
    repeats = sum(one == other for one, other in pairwise(first))
    assert 160 < repeats < 240
    assert orders == turn_orders(("raw", "protected"), number=1, pairs=400, seed=9)
    assert orders != turn_orders(("protected", "raw"), number=2, pairs=400, seed=9)
    assert orders != turn_orders(("protected", "raw"), number=1, pairs=400, seed=10)
