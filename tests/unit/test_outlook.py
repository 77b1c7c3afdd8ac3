"""What the live line foretells: a time from the pace so far, a width from whole rounds, and no figure of the overhead."""

from __future__ import annotations

import pytest

from pytest_glasshouse.outlook import Outlooks, duration
from pytest_glasshouse.overhead.interval import interval_pct
from pytest_glasshouse.overhead.rates import log_ratio
from pytest_glasshouse.terminal import progress_line


def event(
    leg: str, number: int, elapsed_s: float, fraction: float | None = None, rate: float | None = None, rounds: int = 1
) -> dict[str, object]:
    return {
        "row_id": "row-1", "leg": leg, "phase": "train", "round": number, "rounds": rounds, "elapsed_s": elapsed_s,
        "fraction": fraction, "rate": rate,
    }  # fmt: skip


def test_nothing_is_foretold_before_there_is_a_pace() -> None:
    assert Outlooks().see(event("raw", 1, 1.0)).eta_s is None


def test_the_other_leg_is_expected_to_take_as_long() -> None:
    outlooks = Outlooks()

    assert outlooks.see(event("raw", 1, 10.0, 0.5)).eta_s == pytest.approx(10 + 20)
    outlooks.see(event("raw", 1, 20.0, 1.0))
    assert outlooks.see(event("protected", 1, 5.0)).eta_s == pytest.approx(15)


def test_another_row_begins_anew() -> None:
    outlooks = Outlooks()
    outlooks.see(event("raw", 1, 20.0, 1.0))

    assert outlooks.see({**event("raw", 1, 1.0), "row_id": "row-2"}).eta_s is None


def test_width_is_that_of_the_rounds_that_are_whole() -> None:
    rates = [(99.0, 100.0), (98.0, 101.0), (97.0, 99.5)]
    outlooks = Outlooks()
    seen = None
    for number, (protected, raw) in enumerate(rates, 1):
        seen = outlooks.see(event("protected", number, 2.0, 1.0, protected, 3))
        outlooks.see(event("raw", number, 2.0, 1.0, raw, 3))
    expected = interval_pct([log_ratio(*pair) for pair in rates[:2]], level=0.95)

    assert expected is not None
    assert seen is not None
    assert seen.half_width_pct == pytest.approx(expected.half_width)


def test_line_shows_the_width_and_never_where_the_interval_lies() -> None:
    outlooks = Outlooks()
    for number in (1, 2, 3):
        for leg, rate in (("protected", 80.0 + number), ("raw", 100.0)):
            outlook = outlooks.see(event(leg, number, 2.0, 1.0, rate, 3))
    line = progress_line(event("raw", 3, 2.0, 1.0, 100.0, 3), outlook=outlook, spent_usd=1.234)

    assert "points wide" in line
    assert "1.23 USD so far" in line
    assert "%" not in line.replace("100%", "")


@pytest.mark.parametrize(("seconds", "words"), [(3.4, "3 s"), (75, "1 min 15 s"), (7265, "2 h 01 min")])
def test_durations_are_words(seconds: float, words: str) -> None:
    assert duration(seconds) == words
