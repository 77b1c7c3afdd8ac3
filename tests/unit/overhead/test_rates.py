"""Units and seconds in, percent out; and every published figure comes out of the published inputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.overhead.rates import log_ratio, overhead_of_log_ratio, overhead_pct, rate

DATA = Path(__file__).parents[2] / "data" / "published_rows.json"
PUBLISHED: list[dict[str, Any]] = json.loads(DATA.read_text("utf-8"))["rows"]


def rates_of(row: dict[str, Any]) -> tuple[float, float]:
    """From units and seconds where they were published, else from the published rates."""
    if "protectedUnits" in row:
        return rate(row["protectedUnits"], row["protectedElapsedSec"]), rate(row["rawUnits"], row["rawElapsedSec"])
    return row["protectedRate"], row["rawRate"]


def test_all_22_published_rows_are_carried() -> None:
    assert len(PUBLISHED) == 22


@pytest.mark.parametrize("row", PUBLISHED, ids=[f"{n}-{row['overheadPct']}" for n, row in enumerate(PUBLISHED)])
def test_published_overhead_recomputes_to_two_decimals(row: dict[str, Any]) -> None:
    """A reader must be able to get every figure again with the formula the report prints."""
    protected, raw = rates_of(row)

    assert f"{overhead_pct(protected, raw):.2f}" == f"{row['overheadPct']:.2f}"


@pytest.mark.parametrize(("units", "seconds"), [(0, 1), (1, 0), (-1, 1), (1, -1), (math.nan, 1), (1, math.inf)])
def test_rate_of_no_measured_leg_is_refused(units: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        rate(units, seconds)


@pytest.mark.parametrize(("protected", "raw"), [(0, 1), (1, 0), (math.nan, 1), (1, math.inf)])
def test_overhead_of_impossible_rates_is_refused(protected: float, raw: float) -> None:
    with pytest.raises(ValueError, match="finite and above 0"):
        overhead_pct(protected, raw)


def test_overhead_of_a_log_ratio_is_the_overhead_of_the_ratio() -> None:
    assert math.isclose(overhead_of_log_ratio(log_ratio(98.0, 100.0)), overhead_pct(98.0, 100.0))
