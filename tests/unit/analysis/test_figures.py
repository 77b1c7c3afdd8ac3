"""A row's estimates and costs, from its rounds into the record and from the record into a verdict."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from pytest_glasshouse.analysis.costs import price
from pytest_glasshouse.analysis.figures import judged_figures, row_figures
from pytest_glasshouse.check.recompute import Derivation, record_faults
from pytest_glasshouse.observation.results import RoundResult
from pytest_glasshouse.render.markdown import markdown
from tests.unit.report import example

SETTINGS: dict[str, Any] = {"order": "interleaved", "margin_pct": 1.0, "fixed_order": False, "max_overhead_pct": None}


def interleaved(observed: Any, *, noise: float = 0.001) -> tuple[RoundResult, ...]:
    """The example's rounds cut into eight pairs each, of which the protected leg does 0.4 % less."""
    return tuple(_cut(each, noise) for each in example.results(observed))


def _cut(each: RoundResult, noise: float) -> RoundResult:
    draw = random.Random(each.number)
    pairs: list[Any] = []
    for number in range(1, 9):
        shared = draw.gauss(1, noise)
        segments = {
            leg: _segment(round(100_000 * shared * cost * (1 + draw.gauss(0, noise))), position)
            for position, (leg, cost) in enumerate((("protected", 0.996), ("raw", 1.0)), 1)
        }
        pairs.append({"number": number, "first": "protected", **segments})
    totals = {leg: sum(pair[leg]["units"] for pair in pairs) for leg in ("protected", "raw")}
    legs = {
        leg: dataclasses.replace(result, units=totals[leg], elapsed_ns=8 * 10**9)
        for leg, result in (("protected", each.protected), ("raw", each.raw))
        if result is not None
    }
    return dataclasses.replace(each, protected=legs["protected"], raw=legs["raw"], pairs=tuple(pairs))


def _segment(units: int, position: int) -> dict[str, int]:
    second = 10**9
    return {
        "units": units, "elapsed_ns": second, "cpu_ns": second, "position": position, "wash_units": 1, "wash_ns": 1,
        "turn_ns": second, "turn_cpu_ns": second, "others_cpu_ns": 0,
    }  # fmt: skip


def figures(rounds: int = 6, *, noise: float = 0.001, **changes: Any) -> Any:
    found: Any = row_figures(interleaved(example.observation(rounds=rounds), noise=noise))
    return found | judged_figures(found, **{**SETTINGS, **changes})


def test_null_that_qualifies_allows_a_verdict() -> None:
    found = figures()

    assert found["nullQualifies"] is True
    assert found["verdict"] == "measurable overhead, below margin"


def test_null_that_does_not_qualify_is_the_verdicts_reason() -> None:
    found = figures(noise=0.2)

    assert found["nullQualifies"] is False
    assert found["verdict"] == "inconclusive"
    assert "the null does not qualify" in found["verdictReason"]


def test_margin_decides_whether_a_null_qualifies() -> None:
    assert figures(margin_pct=0.0001)["nullQualifies"] is False


def test_sequential_rounds_have_costs_and_no_estimates() -> None:
    found = row_figures(example.results(example.observation(rounds=3)))

    assert "estimates" not in found
    assert {(each["leg"], each["phase"]) for each in found["fixedCosts"]} == {
        ("protected", "setup"), ("protected", "load"), ("protected", "warmup"), ("protected", "zeroize"),
        ("raw", "setup"), ("raw", "load"), ("raw", "warmup"),
    }  # fmt: skip
    assert [each["hours"] for each in found["totalCost"]] == [1, 8, 24, 168]


def test_round_whose_zeroize_was_not_seen_has_no_total_cost() -> None:
    rounds = list(example.results(example.observation(rounds=3)))
    assert rounds[1].protected is not None
    rounds[1] = dataclasses.replace(rounds[1], protected=dataclasses.replace(rounds[1].protected, zeroize_ns=None))

    found = row_figures(rounds)

    assert found["totalCost"] == []
    assert not any(each["phase"] == "zeroize" for each in found["fixedCosts"])


@pytest.mark.parametrize(("allocation", "expected"), [({}, None), ({"priceUsdPerHour": "1.99"}, 1.99)])
def test_price_is_that_of_the_observation(allocation: Any, expected: float | None) -> None:
    assert price({"allocation": allocation}) == expected


def test_money_follows_from_the_price() -> None:
    found = row_figures(example.results(example.observation(rounds=3)), usd_per_hour=2.0)

    assert all(each["usd"] is not None and each["usdCi95"] is not None for each in found["totalCost"])


def _row() -> tuple[Any, dict[str, Any]]:
    derivation = Derivation(results=interleaved, judge=example.judge, binding=lambda _: iter(()), typed_observations=False)
    seen = example.observation(rounds=6)
    record = example.measured(rounds=6, observation=seen)["record"]
    found: Any = row_figures(interleaved(seen))
    record |= found | judged_figures(found, **{**SETTINGS, "order": record["order"]})
    return record, {"derivation": derivation}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("estimates", "trimmedPct"), 0.0),
        (("estimates", "agree"), False),
        (("estimates", "outlierPairs", "protected"), 40),
        (("nullQualifies",), False),
        (("totalCost",), []),
        (("priceUsdPerHour",), 3.0),
        (("fixedCosts",), []),
    ],
)
def test_estimate_or_cost_that_does_not_follow_is_found(path: tuple[str, ...], value: Any) -> None:
    record, given = _row()
    holder = record
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value

    faults = list(record_faults(record, given["derivation"], max_overhead_pct=None))

    assert any(place.startswith("." + ".".join(path)) for place, _ in faults)


def test_leaving_out_only_the_estimates_is_found() -> None:
    """Reports from before there were any have none of the new fields; one that has some must have all."""
    record, given = _row()
    del record["estimates"]

    faults = dict(record_faults(record, given["derivation"], max_overhead_pct=None))

    assert ".estimates" in faults


def test_page_shows_a_rows_interval_and_its_cost() -> None:
    record, _ = _row()
    document = example.document()
    document["rows"] = [record]

    text = markdown(document)

    assert "## Estimates" in text
    assert "inside the raw process (split halves) (" in text
    assert "## Fixed and total cost" in text
    assert "168 h" in text
    assert "## Memory and exposure" in text
    assert "faster" not in text
