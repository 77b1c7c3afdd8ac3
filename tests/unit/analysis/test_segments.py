"""What a report has about turns: segments, raw against raw, and when the machine itself spoils a row."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from pytest_glasshouse.analysis.covariates import covariates, disturbances
from pytest_glasshouse.analysis.null_row import null_figures
from pytest_glasshouse.analysis.segments import segments
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.legs.row_runner import did_not_fit
from pytest_glasshouse.observation.outcome import Ended, Outcome
from pytest_glasshouse.observation.results import RoundResult
from tests.unit.analysis.sampled_turns import S, observation_of
from tests.unit.report import example


def _clocks(protected: int, first: int, second: int) -> Any:
    return observation_of([("protected", [protected, 0, 0]), ("raw", [first, 0, 0]), ("raw", [second, 0, 0])])


def test_means_are_of_the_samples_in_each_legs_turns() -> None:
    (means,) = covariates(_clocks(1000, 1900, 1980))["covariates"]
    assert means["legs"]["protected"]["smClockMhz"] == 1000
    assert means["legs"]["raw"] == {"samples": 2, "smClockMhz": 1940.0, "otherProcesses": 0.0} | {
        name: None for name in means["legs"]["raw"] if name not in {"samples", "smClockMhz", "otherProcesses"}
    }


def test_clock_that_differs_only_with_protection_does_not_exclude_the_row() -> None:
    """To exclude it would be to exclude the effect."""
    assert disturbances(_clocks(1000, 1980, 1980)) == []


def test_clock_that_differs_between_raw_and_raw_too_excludes_the_row() -> None:
    assert "SM clock" in disturbances(_clocks(1000, 1500, 1980))[0]


def test_clocks_within_a_percent_exclude_nothing() -> None:
    assert disturbances(_clocks(1970, 1980, 1985)) == []


@pytest.mark.parametrize(("reason", "excludes"), [(0x8, True), (0x40, True), (0x80, True), (0x4, False), (0x1, False)])
def test_hardware_throttling_in_raw_segments_excludes_the_row_and_a_power_cap_does_not(reason: int, excludes: bool) -> None:
    everywhere: list[tuple[str, list[int | None]]] = [(role, [1980, reason, 0]) for role in ("protected", "raw", "raw")]
    assert bool(disturbances(observation_of(everywhere))) is excludes
    only_protected: list[tuple[str, list[int | None]]] = [("protected", [1980, reason, 0]), *everywhere[1:]]
    only_protected[1:] = [("raw", [1980, 0, 0]), ("raw", [1980, 0, 0])]
    assert disturbances(observation_of(only_protected)) == []


def test_another_process_on_the_gpu_excludes_the_row() -> None:
    rows: list[tuple[str, list[int | None]]] = [("protected", [1980, 0, 0]), ("raw", [1980, 0, 1]), ("raw", [1980, 0, 0])]
    assert "another process" in disturbances(observation_of(rows))[0]


def test_missing_covariates_exclude_nothing() -> None:
    rows: list[tuple[str, list[int | None]]] = [(role, [None, None, None]) for role in ("protected", "raw", "raw")]
    assert disturbances(observation_of(rows)) == []
    nothing: Any = {"rounds": [{"round": 1}]}
    assert disturbances(nothing) == []
    assert covariates(nothing) == {}


def _raw(leg: str, units: int) -> Any:
    return example.leg_result(leg, 1, units=units, elapsed_ns=2 * S)


def _null_rounds(*units: tuple[int, int]) -> list[RoundResult]:
    return [
        RoundResult(number=number, order=("raw", "raw2"), protected=None, raw=_raw("raw", one), raw2=_raw("raw2", two))
        for number, (one, two) in enumerate(units, 1)
    ]


def test_null_figures_are_one_difference_with_its_interval() -> None:
    figures: Any = null_figures(_null_rounds((1000, 1001), (1000, 999), (1000, 1000)), margin_pct=1.0)
    assert figures["differencePct"] == pytest.approx(0.0, abs=1e-9)
    assert figures["differenceCi90Pct"][0] < 0 < figures["differenceCi90Pct"][1]
    assert figures["qualifies"] is True
    assert null_figures(_null_rounds((1000, 1001), (1000, 999), (1000, 1000)), margin_pct=0.05)["qualifies"] is False


def test_one_null_round_has_no_interval_and_does_not_qualify() -> None:
    figures = null_figures(_null_rounds((1000, 1000)), margin_pct=1.0)
    assert (figures["differenceCi90Pct"], figures["qualifies"]) == (None, False)


def test_null_round_without_its_second_leg_is_no_null() -> None:
    (one,) = _null_rounds((1000, 1000))
    with pytest.raises(ReportError, match="both raw legs"):
        null_figures([dataclasses.replace(one, raw2=None)], margin_pct=1.0)


def test_segments_are_recorded_in_the_order_they_ran() -> None:
    part = {
        "units": 5, "elapsed_ns": S, "cpu_ns": S // 2, "wash_units": 1, "wash_ns": S // 10, "turn_ns": 2 * S,
        "turn_cpu_ns": S, "others_cpu_ns": 0,
    }  # fmt: skip
    pair: Any = {"number": 1, "first": "raw", "raw": {**part, "position": 1}, "protected": {**part, "position": 2}}
    (one,) = [dataclasses.replace(each, pairs=(pair,)) for each in _null_rounds((1, 1))]
    recorded = segments([one])
    assert [(each["leg"], each["position"]) for each in recorded] == [("raw", 1), ("protected", 2)]
    assert (recorded[0]["elapsedSec"], recorded[0]["cpuSec"], recorded[0]["washSec"], recorded[0]["turnSec"]) == (
        1.0,
        0.5,
        0.1,
        2.0,
    )


@pytest.mark.parametrize(
    ("changes", "ended", "reason", "fits"),
    [
        ({}, True, "OutOfMemoryError", False),
        ({"resident": False}, True, "OutOfMemoryError", True),
        ({}, True, "non-finite loss", True),
        ({}, False, "OutOfMemoryError", True),
    ],
)
def test_row_falls_back_only_where_a_resident_leg_found_no_room(
    changes: dict[str, Any], ended: bool, reason: str, fits: bool
) -> None:
    row = dataclasses.replace(example.row(), order="interleaved", **changes)
    observation: Any = {"rounds": [{"round": 1, "protected": {}, "raw": {"failed": {"reason": reason}}}]}
    outcome = Outcome(
        row=row,
        declared=row,
        allocation=example.allocation(),
        observation=observation,
        ended=Ended(outcome="failed", reason="raw leg failed", decision="") if ended else None,
    )
    assert did_not_fit(outcome) is not fits
