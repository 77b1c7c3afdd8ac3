"""How many rounds a row has, and what a null of its allocation makes of its verdict: from the plan that was signed, and again in `check`."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest

from pytest_glasshouse.analysis.allocation_null import allocation_nulls, judged_by_null, judged_by_nulls
from pytest_glasshouse.analysis.looks import looks_of, plan_of_looks
from pytest_glasshouse.analysis.planned_rounds import pairs_of_round, rounds_in_all
from pytest_glasshouse.analysis.wording import verdict_text, worst_round_text
from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.check.recompute import Derivation, record_faults
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.observation.results import RoundResult
from pytest_glasshouse.overhead.sequential import LOOKS
from pytest_glasshouse.render.page_rows import row_details
from pytest_glasshouse.render.plot_interval import null_band
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.report import example

LEGS = ["protected", "raw"]


def rounds_of(overheads: Any) -> list[RoundResult]:
    """Rounds of these overheads in percent, as `results` gives them; either leg starts every second one."""
    return [
        dataclasses.replace(
            each,
            protected=example.leg_result(
                "protected", each.number, units=round(1_000_000 * (1 - pct / 100)), elapsed_ns=2 * 10**9
            ),
            raw=example.leg_result("raw", each.number, units=1_000_000, elapsed_ns=2 * 10**9),
        )
        for each, pct in zip(example.results(example.observation(rounds=len(overheads))), overheads, strict=True)
    ]


def seen_of(overheads: Any, **sampling: Any) -> Any:
    seen = example.observation(rounds=len(overheads), unseen=())
    seen["plan"] = {"rounds": 5, "fixedOrder": False, "sampling": {"version": "2", **sampling}}
    return seen


def made(
    overheads: Any, *, order: str = "protected-first", rounds: int | None = None, limit: float | None = 3.0, **sampling: Any
) -> tuple[Any, Derivation]:
    """The record of a row with these rounds, and what it is derived with."""

    def results(observation: Any) -> tuple[RoundResult, ...]:
        first = observation["rounds"][0]["round"] - 1
        return tuple(rounds_of(overheads)[first : first + len(observation["rounds"])])

    resident = {"resident": False} if order == "interleaved" else {}
    spec = example.row(rounds=rounds or len(overheads), order=order, **resident)
    seen = seen_of(overheads, **sampling)
    outcome = Outcome(row=spec, declared=spec, allocation=example.allocation(), observation=seen)
    record = example.record_of(outcome, example.settings(max_overhead_pct=limit), rounds=results(seen))
    return record, dataclasses.replace(example.EXAMPLE, results=results)


def faults(record: Any, derivation: Derivation, limit: float | None = 3.0, **given: Any) -> list[str]:
    return [path for path, _ in record_faults(record, derivation, max_overhead_pct=limit, **given)]


def noisy(middle: float, spread: float, count: int) -> list[float]:
    return [middle + spread * math.sin(9.7 * place) for place in range(count)]


@pytest.mark.parametrize(
    ("middle", "spread", "verdicts"),
    [
        (0.5, 0.05, ["within the limit"]),
        (9.0, 0.05, ["over the limit"]),
        (3.0, 4.0, ["inconclusive"] * 7),
    ],
)
def test_row_ends_at_the_look_that_decides_it_or_at_the_last(middle: float, spread: float, verdicts: list[str]) -> None:
    looks = plan_of_looks(3.0)
    overheads = noisy(middle, spread, 24)

    for count in LOOKS:
        found = looks_of(seen_of(overheads[:count], **looks), rounds_of(overheads[:count]))
        assert found is not None
        decided = [judged.verdict.value for _, judged in found.seen]
        assert decided == verdicts[: len(decided)]
        place = min(len(decided), len(verdicts)) - 1
        ended = decided[-1] != "inconclusive" or count == LOOKS[-1]
        assert found.rounds_in_all == (LOOKS[place] if ended else LOOKS[place + 1])


def test_row_that_ended_at_a_look_follows_from_its_own_data() -> None:
    record, derivation = made(noisy(0.5, 0.05, 5), **plan_of_looks(3.0))
    row = record["record"]

    assert record["list"] == "rows"
    assert row["sequential"]["rounds"] == 5
    assert row["sequential"]["looks"][-1]["judgement"] == row["limit"]["judgement"] == "within the limit"
    assert row["sequential"]["looks"][-1]["upper95Pct"] == row["limit"]["upper95Pct"]
    assert faults(row, derivation) == []


def test_bounds_of_looks_are_wider_than_those_of_rounds_that_were_planned() -> None:
    """Naive looks pass a row at its limit in 15 % of cases."""
    overheads = noisy(0.5, 0.3, 5)
    planned, looked = made(overheads)[0]["record"], made(overheads, **plan_of_looks(3.0))[0]["record"]

    assert planned["limit"]["upper95Pct"] < looked["limit"]["upper95Pct"]
    for name in ("overheadCi95Pct", "overheadCi90Pct"):
        assert looked[name][0] < planned[name][0] < planned[name][1] < looked[name][1]


@pytest.mark.parametrize("ran", [6, 7, 9])
def test_row_that_went_on_after_it_was_decided_is_not_measured(ran: int) -> None:
    record, _ = made(noisy(0.5, 0.05, ran), **plan_of_looks(3.0))

    assert record["list"] == "excludedResults"
    assert record["record"]["reason"] == "not every leg of every round was measured"


def test_row_that_stopped_before_a_look_decided_it_is_not_measured() -> None:
    assert made(noisy(3.0, 4.0, 9), **plan_of_looks(3.0))[0]["list"] == "excludedResults"


@pytest.mark.parametrize("change", [{"looks": [5, 6, 7]}, {"spending": "3"}])
def test_looks_without_a_table_of_errors_are_refused(change: Any) -> None:
    with pytest.raises(ValueError, match="not those there are errors for"):
        looks_of(seen_of([1.0] * 5, **{**plan_of_looks(3.0), **change}), rounds_of([1.0] * 5))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sequential", "rounds"), 7),
        (("sequential", "looks", 0, "judgement"), "inconclusive"),
        (("sequential", "looks", 0, "upper95Pct"), 0.1),
        (("worstRound", "overheadPct"), 0.0),
        (("worstRound", "slow"), 3),
        (("allocationNull",), {"rounds": 5, "pct": 0.0, "ci90Pct": [-0.1, 0.1]}),
        (("cut",), {"roundCostSec": 1.0, "pairSec": 1.0, "rounds": 5, "pairs": 4}),
    ],
)
def test_changed_figure_of_a_sampled_row_is_found(path: tuple[Any, ...], value: Any) -> None:
    record, derivation = made(noisy(0.5, 0.05, 5), **plan_of_looks(3.0))
    row = copy.deepcopy(record["record"])
    holder = row
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value

    assert any(each.startswith(f".{path[0]}") or each == ".roundFigures" for each in faults(row, derivation))


def with_pairs(rounds: list[RoundResult], *, turn_s: float, pairs: int, cost_s: float) -> list[RoundResult]:
    """The rounds with as many pairs of two turns, legs of which each cost half of `cost_s` beside them."""
    turn = {"turn_ns": round(turn_s * 1e9)}
    cut: list[Any] = [{"number": number, "first": "raw", "protected": turn, "raw": turn} for number in range(1, pairs + 1)]
    return [
        dataclasses.replace(
            each,
            protected=dataclasses.replace(
                each.protected, setup_ns=round(cost_s * 0.4e9), warmup_ns=0, zeroize_ns=round(cost_s * 1e8)
            ),  # type: ignore[type-var]
            raw=dataclasses.replace(each.raw, setup_ns=round(cost_s * 0.4e9), warmup_ns=round(cost_s * 1e8)),  # type: ignore[type-var]
            pairs=tuple(cut),
        )
        for each in rounds
    ]


@pytest.mark.parametrize(("cost_s", "expected"), [(60.0, (11, 4)), (20.0, (13, 4)), (600.0, (5, 4)), (140.0, (7, 5))])
def test_first_round_cuts_the_time_of_a_row(cost_s: float, expected: tuple[int, int]) -> None:
    """By what it cost, and by nothing that it measured."""
    for overhead in (0.0, 30.0):
        rounds = with_pairs(rounds_of([overhead]), turn_s=24.0, pairs=4, cost_s=cost_s)
        seen = seen_of([overhead], rowSec="2952")
        seen["plan"] |= {"interleaving": {"legs": LEGS, "pairs": 4, "resident": True}}
        later = pairs_of_round(seen, rounds, number=2, planned=4)
        assert (rounds_in_all(seen, rounds, planned=5), later) == expected
        assert pairs_of_round(seen, rounds, number=1, planned=4) == 4
        assert rounds_in_all(seen, [], planned=5) == 5


def test_row_with_neither_time_nor_looks_has_the_rounds_that_were_planned() -> None:
    assert rounds_in_all(seen_of([1.0]), rounds_of([1.0]), planned=6) == 6
    assert rounds_in_all({}, [], planned=6) == 6


def null_record(ratios: Any) -> Any:
    """A null row whose rounds had these differences in percent."""
    spec = example.row(name="mlp-h100-null", order="interleaved", null=True, resident=False, rounds=len(ratios))
    seen = example.observation(rounds=len(ratios), unseen=())
    seen["plan"] = {"null": True, "sampling": {"version": "2"}}
    for observed in seen["rounds"]:
        observed |= {"nonce": example.digest(f"null {observed['round']}"), "protected": None, "raw2": observed["raw"]}
    rounds = [dataclasses.replace(each, protected=None, raw2=each.protected) for each in rounds_of(ratios)]
    return example.record_of(Outcome(row=spec, declared=spec, allocation=example.allocation(), observation=seen), rounds=rounds)


CALM, WILD = noisy(0.0, 0.1, 6), noisy(0.0, 6.0, 6)


def test_interleaved_row_needs_no_null_and_is_judged_by_one_between_processes() -> None:
    """Halves of one raw process compare it with itself: they said nothing and vetoed a quarter of all rented rows."""
    record, _ = made(noisy(0.2, 0.1, 6), order="interleaved")
    assert record["record"]["verdict"] == "measurable overhead, below margin"
    assert "nullQualifies" not in record["record"]

    calm, _ = judged_by_nulls([record, null_record(CALM)])
    assert calm["record"]["verdict"] == record["record"]["verdict"]  # type: ignore[typeddict-item]
    assert calm["record"]["allocationNull"]["rounds"] == 6  # type: ignore[typeddict-item]

    wild, _ = judged_by_nulls([record, null_record(WILD)])
    assert wild["record"]["verdict"] == "inconclusive"  # type: ignore[typeddict-item]
    assert "raw against raw between processes" in wild["record"]["verdictReason"]  # type: ignore[typeddict-item]
    assert wild["record"]["nullQualifies"] is False  # type: ignore[typeddict-item]
    assert wild["record"]["limit"] == record["record"]["limit"]  # type: ignore[typeddict-item]


def test_nulls_of_an_allocation_are_pooled_over_its_rows() -> None:
    one, other = null_record(CALM)["record"], null_record(WILD)["record"]
    elsewhere: Any = {**null_record(CALM)["record"], "allocationName": "another"}

    found = allocation_nulls([one, other, elsewhere], [])

    assert {name: len(each.log_ratios) for name, each in found.items()} == {"glasshouse-run-1-a": 12, "another": 6}


def test_report_with_a_null_row_follows_from_its_own_data_and_not_without_it() -> None:
    """Whoever leaves the null row out changes the verdict."""
    overheads = noisy(0.2, 0.1, 6)
    record, derivation = made(overheads, order="interleaved", limit=None)
    null = null_record(WILD)
    rounds = {example.digest(f"null {number}"): each for number, each in enumerate(rounds_of(WILD), 1)}

    def results(observation: Any) -> tuple[RoundResult, ...]:
        if observation.get("plan", {}).get("null"):
            of_null = [rounds[observed["nonce"]] for observed in observation["rounds"]]
            return tuple(dataclasses.replace(each, protected=None, raw2=each.protected) for each in of_null)
        assert derivation.results is not None
        return tuple(derivation.results(observation))

    derived = dataclasses.replace(derivation, results=results)
    document = example.assembled((record, null))
    assert document["rows"][0]["verdict"] == "inconclusive"
    assert check_bytes(report_bytes(document), derivation=derived).faults == ()
    assert null_band(document, document["rows"][0]) == tuple(document["rows"][0]["allocationNull"]["ci90Pct"])

    without = example.assembled((record,))
    assert null_band(without, without["rows"][0]) is None
    forged = {**without, "rows": document["rows"]}
    paths = [each.path for each in check_bytes(report_bytes(forged), derivation=derived).faults]
    assert {"$.rows[0].verdict", "$.rows[0].allocationNull"} <= set(paths)


def test_printed_figure_is_the_one_the_interval_is_of() -> None:
    """The ratio of totals may even lie outside it: a long round weighs more there."""
    record, _ = made([1.0, 1.2, 0.8, 1.1, 0.9, 1.0], order="interleaved", limit=None)
    changed: Any = {**record["record"], "overheadPct": 7.77}
    row = judged_by_null(changed, None)

    shown = row_details(example.document(record), row, is_open=True)
    assert f"{row['roundsMeanPct']:+.2f} % (95 % interval" in row["interpretation"]
    assert "ratio of totals" in shown
    assert "+7.77 % (one figure, without an interval)" in shown


def test_worst_round_and_slow_ones_stand_beside_the_mean() -> None:
    record, _ = made([0.1, 0.2, 0.1, 9.0, 0.2, 0.1], order="interleaved", limit=None)

    assert record["record"]["worstRound"] == {"round": 4, "overheadPct": pytest.approx(9.0), "slow": 1, "rounds": 6}
    assert worst_round_text(record["record"]) == "worst round +9.00 % (round 4; 1 of 6 more than 1 % above their median)"


def test_equivalent_row_names_its_margin() -> None:
    record, _ = made([0.1, -0.1, 0.05, -0.05, 0.1, -0.1], order="interleaved", limit=None)

    assert verdict_text(record["record"]) == "equivalent within margin of 1 %"


def test_start_effect_is_estimated_and_does_not_widen_the_interval() -> None:
    """The leg that starts first is two percent slower: either way in every second round."""
    overheads = [1.0 + (2.0 if place % 2 == 0 else -2.0) + 0.05 * math.sin(5.1 * place) for place in range(10)]
    now, before = (made(overheads, order="interleaved", limit=None)[0]["record"] for _ in range(2))
    fixed_as_one_block = made(overheads, limit=None)[0]["record"]
    plain = copy.deepcopy(seen_of(overheads))
    del plain["plan"]
    spec = example.row(rounds=10)
    old = example.record_of(
        Outcome(row=spec, declared=spec, allocation=example.allocation(), observation=plain), rounds=rounds_of(overheads)
    )["record"]

    assert now == before
    assert now["overheadCi95Pct"] == fixed_as_one_block["overheadCi95Pct"]
    width, old_width = (each["overheadCi95Pct"][1] - each["overheadCi95Pct"][0] for each in (now, old))
    assert old_width > 10 * width
    assert now["overheadCi95Pct"][0] < 1.0 < now["overheadCi95Pct"][1]
