"""The estimates of the live line: a time from the rate so far, a width from whole rounds, and no figure of the overhead."""

from __future__ import annotations

import pytest

from pytest_glasshouse.overhead.interval import interval_pct, log_ratio
from pytest_glasshouse.run.eta import Etas, duration
from pytest_glasshouse.run.live_line import progress_line


def event(
    leg: str, number: int, elapsed_s: float, fraction: float | None = None, rate: float | None = None, rounds: int = 1
) -> dict[str, object]:
    return {
        "row_id": "row-1", "leg": leg, "phase": "train", "round": number, "rounds": rounds, "elapsed_s": elapsed_s,
        "fraction": fraction, "rate": rate,
    }  # fmt: skip


def etas(*events: tuple[float, dict[str, object]]) -> list[int | None]:
    """What is foretold after each event, in whole seconds."""
    estimates = Etas()
    seen = [estimates.see(each, at=at).eta_s for at, each in events]
    return [None if eta is None else round(eta) for eta in seen]


def test_nothing_is_estimated_before_there_is_a_rate() -> None:
    assert etas((0, event("raw", 1, 0.0)), (9, event("raw", 1, 9.0)), (10, event("raw", 1, 10.0, 0.1))) == [None, None, None]


def test_time_before_the_training_does_not_count_in_its_rate() -> None:
    """A row of two legs of 40 s, 10 of them before the training: the time left counts down, and does not leap."""
    legs = [
        moment
        for start, leg in ((0, "raw"), (40, "protected"))
        for moment in (
            (start, event(leg, 1, 0.0)), (start + 13, event(leg, 1, 13.0, 0.1)), (start + 16, event(leg, 1, 16.0, 0.2)),
            (start + 25, event(leg, 1, 25.0, 0.5)), (start + 39, event(leg, 1, 39.0)),
        )
    ]  # fmt: skip
    assert etas(*legs) == [None, None, 64, 55, 39, 40, 27, 24, 15, 1]


def test_rounds_to_come_take_as_long_as_those_before() -> None:
    """Also between rounds, where no leg runs, and in legs that have not begun to train."""
    over = {**event("", 1, 0.0, rounds=3), "phase": "interval"}
    lines = etas(
        (0, event("raw", 1, 0.0, rounds=3)), (10, event("protected", 1, 0.0, rounds=3)), (20, over),
        (20, event("raw", 2, 0.0, rounds=3)), (25, event("raw", 2, 5.0, rounds=3)),
        (40, {**over, "round": 2}), (41, event("raw", 3, 0.0, rounds=3)), (55, event("protected", 3, 5.0, 0.5, rounds=3)),
    )  # fmt: skip
    assert lines == [None, None, 40, 40, 35, 20, 20, 6]


def test_turns_are_estimated_as_one_leg() -> None:
    """Legs that take turns are loaded one after the other, and that shows nothing about how long they train."""
    lines = etas(
        (0, event("raw", 1, 0.0, rounds=2)), (3, event("protected", 1, 0.0, rounds=2)), (8, event("both", 1, 5.0, 0.1, rounds=2)),
        (18, event("both", 1, 15.0, 0.6, rounds=2)), (26, event("raw", 1, 1.0, rounds=2)),
    )  # fmt: skip
    assert lines == [None, None, None, 8 + 26, 26]


def test_estimate_starts_anew_with_another_row() -> None:
    estimates = Etas()
    estimates.see(event("raw", 1, 10.0, 0.5), at=10)
    estimates.see(event("raw", 1, 20.0, 1.0), at=20)

    assert estimates.see({**event("raw", 1, 1.0), "row_id": "row-2"}, at=21).eta_s is None


def test_width_is_that_of_the_rounds_that_are_whole() -> None:
    rates = [(99.0, 100.0), (98.0, 101.0), (97.0, 99.5)]
    estimates = Etas()
    seen = None
    for number, (protected, raw) in enumerate(rates, 1):
        seen = estimates.see(event("protected", number, 2.0, 1.0, protected, 3), at=number)
        estimates.see(event("raw", number, 2.0, 1.0, raw, 3), at=number)
    expected = interval_pct([log_ratio(*pair) for pair in rates[:2]], level=0.95)

    assert expected is not None
    assert seen is not None
    assert seen.half_width_pct == pytest.approx(expected.half_width)


def test_line_shows_the_width_and_never_where_the_interval_lies() -> None:
    estimates = Etas()
    for number in (1, 2, 3):
        for leg, rate in (("protected", 80.0 + number), ("raw", 100.0)):
            estimate = estimates.see(event(leg, number, 2.0, 1.0, rate, 3), at=number)
    line = progress_line(event("raw", 3, 2.0, 1.0, 100.0, 3), estimate=estimate, spent_usd=1.234)

    assert line.count("points") == 1
    assert "wide" not in line
    assert "1.23 USD so far" in line
    assert "%" not in line.replace("100%", "")


@pytest.mark.parametrize(("seconds", "text"), [(3.4, "3 s"), (75, "1 min 15 s"), (7265, "2 h 01 min")])
def test_durations_are_shown_in_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_round_of_one_leg_does_not_wait_for_a_second() -> None:
    """A row whose base is sealed has no raw leg: its round is over with the protected one."""

    def alone(elapsed_s: float, fraction: float | None = None) -> dict[str, object]:
        return {**event("protected", 1, elapsed_s, fraction), "legs": 1}

    assert etas((0, alone(0.0)), (10, alone(10.0, 0.0)), (20, alone(20.0, 0.5))) == [None, None, 10]
