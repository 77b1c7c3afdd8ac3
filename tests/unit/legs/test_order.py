from __future__ import annotations

import pytest

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.legs.order import leg_orders

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


def test_order_that_is_not_one_leg_after_the_other_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'interleaved': expected raw-first or protected-first"):
        leg_orders("interleaved", rounds=1, seed=1, fixed=False)
