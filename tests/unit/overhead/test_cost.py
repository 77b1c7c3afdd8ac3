"""Fixed costs and the total cost of protection: the worked example, intervals, and money only where a price is known."""

from __future__ import annotations

import math

import pytest

from pytest_glasshouse.overhead.cost import JOB_HOURS, RoundCost, job_cost, seconds


def example(rounds: int = 1, *, jitter: float = 0.0) -> list[RoundCost]:
    """65 s of fixed cost, 0.3 % in the loop, 60 s of raw set-up."""
    return [
        RoundCost(
            protected_setup_s=120 + place * jitter,
            raw_setup_s=60,
            zeroize_s=5,
            log_ratio=math.log1p(-0.003 - place * jitter / 1e4),
        )
        for place in range(rounds)
    ]


@pytest.mark.parametrize(("hours", "expected"), [(1, 2.1), (24, 0.38)])
def test_total_cost_of_the_worked_example(hours: int, expected: float) -> None:
    assert job_cost(example(), hours=hours).pct == pytest.approx(expected, abs=0.03)


def test_total_cost_is_the_formula() -> None:
    o, fixed, setup = 0.003, 65, 60
    for hours in JOB_HOURS:
        expected = (fixed + 3600 * hours * (1 / (1 - o) - 1)) / (setup + 3600 * hours) * 100
        assert job_cost(example(), hours=hours).pct == pytest.approx(expected)


def test_fixed_costs_matter_less_the_longer_the_job() -> None:
    found = [job_cost(example(), hours=hours).pct for hours in JOB_HOURS]

    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0.3, abs=0.02)


def test_one_round_has_no_interval_and_several_have() -> None:
    assert job_cost(example(), hours=8).ci95 is None
    several = job_cost(example(5, jitter=1.0), hours=8)

    assert several.ci95 is not None
    assert several.ci95.low < several.pct < several.ci95.high


def test_cost_in_usd_is_given_only_where_a_price_is_known() -> None:
    rounds = example(5, jitter=1.0)
    without, priced = job_cost(rounds, hours=24), job_cost(rounds, hours=24, usd_per_hour=2.0)

    assert (without.usd, without.usd_ci95) == (None, None)
    assert priced.usd == pytest.approx(priced.pct / 100 * (24 + 60 / 3600) * 2.0)
    assert priced.usd_ci95 is not None


def test_durations_have_an_interval_that_does_not_go_below_zero() -> None:
    one, several = seconds([0.4]), seconds([0.1, 0.0, 0.9])

    assert one.ci95 is None
    assert several.mean == pytest.approx(1 / 3)
    assert several.ci95 is not None
    assert several.ci95[0] == 0.0


def test_nothing_measured_has_no_cost() -> None:
    with pytest.raises(ValueError):
        seconds([])
    with pytest.raises(ValueError):
        job_cost([], hours=1)
