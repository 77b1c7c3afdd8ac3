from __future__ import annotations

from itertools import pairwise

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows.leg_order import (
    leg_orders,
    orders_of_row,
    row_seed,
    starting_orders,
    starts_of_row,
    turn_orders,
    turns_of_round,
)

RAW_FIRST, PROTECTED_FIRST = ("raw", "protected"), ("protected", "raw")
FIRST = {"raw-first": RAW_FIRST, "protected-first": PROTECTED_FIRST}


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


@pytest.mark.parametrize("order", ["raw-first", "protected-first", "interleaved"])
@pytest.mark.parametrize("rounds", range(1, 25))
def test_orders_of_a_row_are_balanced_after_every_second_round_and_go_on_as_they_began(order: str, rounds: int) -> None:
    """A row that ends at a look, or is extended, must have the orders it would have had."""
    for seed in map(str, range(20)):
        orders = orders_of_row(order, rounds=rounds, seed=seed, fixed=False)
        assert orders == orders_of_row(order, rounds=24, seed=seed, fixed=False)[:rounds]
        for even in range(2, rounds + 1, 2):
            assert orders[:even].count(PROTECTED_FIRST) == even // 2
        if order in FIRST:
            assert orders[0] == FIRST[order]


def test_orders_of_a_row_are_drawn() -> None:
    drawn = {orders_of_row("interleaved", rounds=6, seed=str(seed), fixed=False) for seed in range(200)}
    assert len(drawn) == 8
    assert set(orders_of_row("raw-first", rounds=6, seed="1", fixed=True)) == {FIRST["raw-first"]}


def test_rows_of_one_run_have_seeds_of_their_own() -> None:
    """Else all of them share one imbalance."""
    assert row_seed(7, "one") != row_seed(7, "other")
    assert row_seed(7, "one") != row_seed(8, "one")
    assert row_seed(7, "one") == row_seed(7, "one")


@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 9, 30])
def test_turns_of_a_round_are_balanced(pairs: int) -> None:
    seen = set()
    for number in range(1, 60):
        turns = turns_of_round(("protected", "raw"), number=number, pairs=pairs, seed="a")
        firsts = [first for first, _ in turns]
        assert abs(firsts.count("raw") - firsts.count("protected")) == pairs % 2
        assert all({*each} == {"protected", "raw"} for each in turns)
        assert turns == turns_of_round(("raw", "protected"), number=number, pairs=pairs, seed="a")
        seen.add(turns)
    assert len(seen) > 1


def test_turns_are_of_two_legs_in_a_number_that_a_round_can_have() -> None:
    with pytest.raises(ConfigurationError, match="at most 100000 pairs"):
        turns_of_round(("protected", "raw"), number=1, pairs=2**40, seed="a")
    with pytest.raises(ConfigurationError, match="two legs"):
        starts_of_row(("protected", "raw", "raw2"), rounds=2, seed="a", fixed=False)
    assert set(map(frozenset, starts_of_row(("raw", "raw2"), rounds=4, seed="a", fixed=False))) == {frozenset({"raw", "raw2"})}
