"""One row under one limit has one answer: in the plugin, at the gate, on the badge, on the page, in the tables, and in `check`."""

from __future__ import annotations

import ast
import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.stats import t

import pytest_glasshouse
from pytest_glasshouse.analysis.figures import judged_figures, row_figures
from pytest_glasshouse.analysis.looks import plan_of_looks
from pytest_glasshouse.analysis.row_limits import implausible, limit_of, log_ratios
from pytest_glasshouse.analysis.sampling import sampled, sampling_of
from pytest_glasshouse.check.check import Checked, Level, check_bytes
from pytest_glasshouse.check.compare import compare
from pytest_glasshouse.check.gate import Gated, GatePolicy, Ruling, gate
from pytest_glasshouse.check.recompute import Derivation, record_faults
from pytest_glasshouse.observation.outcome import Outcome
from pytest_glasshouse.observation.results import RoundResult
from pytest_glasshouse.overhead.interval import interval_pct
from pytest_glasshouse.overhead.sequential import NOMINAL
from pytest_glasshouse.overhead.verdict import LimitVerdict
from pytest_glasshouse.render.badge import badge
from pytest_glasshouse.render.markdown import markdown
from pytest_glasshouse.render.page_rows import row_details
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.run.options import Options
from pytest_glasshouse.run.records import failure_of
from tests.unit.check.gate_reports import MADE_AT, report
from tests.unit.report import example

BASE = report()
SOUND = Checked(faults=(), level=Level.CONSISTENT, missing=(), rows=1, excluded=0)
GREEN, BLUE = "#1a7f37", "#0a5ea8"
#: All twelve together are bounded by 2.2 %; by the spread of the first two, which the rule of the extension takes, by 3.65 %.
NOISY = (1.36, 2.64, 2.0, 1.9, 2.1, 2.0, 2.0, 1.95, 2.05, 2.0, 2.0, 2.0)


def rounds_of(overheads: Any) -> list[RoundResult]:
    """A round for each overhead in percent, its legs of a million units."""
    return [
        RoundResult(
            number=number,
            order=("protected", "raw") if number % 2 else ("raw", "protected"),
            protected=example.leg_result("protected", number, units=round(1_000_000 * (1 - pct / 100)), elapsed_ns=2_000_000_000),
            raw=example.leg_result("raw", number, units=1_000_000, elapsed_ns=2_000_000_000),
            raw2=None,
        )
        for number, pct in enumerate(overheads, start=1)
    ]


def row_of(
    overheads: Any,
    *,
    first: int | None = None,
    fixed: bool = False,
    margin: float = 1.0,
    own: float | None = None,
    plan: Any = None,
) -> Any:
    """A measured row of the base report whose rounds were these; `plan` is what its plan says of its sampling."""
    rounds = rounds_of(overheads)
    base = copy.deepcopy(BASE["rows"][0])
    if plan is not None:
        base["observation"]["plan"] = {"sampling": plan, "fixedOrder": fixed}
    sampling = sampled(base["observation"], [each.order for each in rounds], first_rounds=first)
    figures = row_figures(rounds, sampling=sampling)
    judged = judged_figures(
        figures, order="interleaved" if plan else "raw-first", margin_pct=margin, fixed_order=fixed, max_overhead_pct=own,
        sampling=sampling, current=plan is not None,
    )  # fmt: skip
    row = {**base, **figures, **judged, "marginPct": margin, "fixedOrder": fixed}
    if first is not None:
        row |= {"rounds": first, "extension": {"firstRounds": first, "rounds": len(rounds)}}
    return row


def report_of(row: Any) -> Any:
    """The base report with this row alone."""
    return {**BASE, "rows": [row]}


def gated(row: Any, asked: float | None) -> Gated:
    return gate(report_of(row), SOUND, GatePolicy(max_overhead_pct=asked), now=MADE_AT)


def is_distinguishable(bound: float, limit: float) -> bool:
    """Whether rounding decides nothing: a bound that is the limit to fifteen digits may fall on either side."""
    return abs(bound - limit) > 1e-9


#: What a row's plan says of its sampling: nothing (as before revision 5), as now, and with looks.
PLANS: dict[str, Any] = {"before": None, "now": {"version": "2"}, "looks": plan_of_looks(3.0)}


def blocks_by_hand(logs: Any, *, way: str, fixed: bool) -> list[list[float]]:
    """The rounds of `rounds_of` by who started first: every second one."""
    if way == "before" or fixed or len(logs) < 5:
        return [list(logs)]
    return [list(logs[::2]), list(logs[1::2])]


def bounds_by_hand(
    overheads: Any, first: int | None, quantile: float, *, way: str = "before", fixed: bool = False
) -> tuple[float, float]:
    """Student's t on log ratios, written again from the definition: percent, lower and upper."""
    logs = [math.log(round(1_000_000 * (1 - pct / 100)) / 1_000_000) for pct in overheads]
    groups, stage = (blocks_by_hand(each, way=way, fixed=fixed) for each in (logs, logs[:first]))
    middle = sum(sum(each) / len(each) for each in groups) / len(groups)
    freedom = sum(map(len, stage)) - len(stage)
    variance = sum((value - sum(each) / len(each)) ** 2 for each in stage for value in each) / freedom
    error = math.sqrt(variance * sum(1 / len(each) for each in groups)) / len(groups)
    if way == "looks":
        spent = NOMINAL[round(1 - quantile, 3)]
        quantile = 1 - spent.get(len(logs), min(spent.values()))
    reach = float(t.ppf(quantile, freedom)) * error
    return -math.expm1(middle + reach) * 100, -math.expm1(middle - reach) * 100


def by_hand(overheads: Any, *, first: int | None, fixed: bool, margin: float, limit: float, way: str = "before") -> LimitVerdict:
    """The rule, written again from the definition."""
    if len(overheads) < 2:
        return LimitVerdict.INCONCLUSIVE
    low, high = bounds_by_hand(overheads, first, 0.95, way=way, fixed=fixed)  # a 90 % interval has these ends too
    assume(
        is_distinguishable(high, limit)
        and is_distinguishable(low, limit)
        and is_distinguishable(high, margin)
        and is_distinguishable(low, -margin)
    )
    below = bounds_by_hand(overheads, first, 0.975, way=way, fixed=fixed)[1] < 0 and not (-margin < low and high < margin)
    if fixed or (len(overheads) >= 5 and below):
        return LimitVerdict.INCONCLUSIVE
    if high <= limit:
        return LimitVerdict.WITHIN if len(overheads) >= 5 else LimitVerdict.INCONCLUSIVE
    return LimitVerdict.OVER if low > limit else LimitVerdict.INCONCLUSIVE


LIMITS = st.none() | st.sampled_from([0.0, 0.5, 1.0, 3.0, 10.0]) | st.floats(0, 15).map(lambda value: round(value, 2))


@st.composite
def cases(draw: st.DrawFn) -> Any:
    middle = draw(st.sampled_from([-8.0, -2.0, -0.3, 0.0, 0.8, 2.5, 9.0]))
    spread = draw(st.sampled_from([0.0, 0.05, 0.5, 3.0]))
    count = draw(st.sampled_from([1, 2, 4, 5, 6, 7, 9, 12]))
    way = draw(st.sampled_from(sorted(PLANS)))
    fixed = draw(st.sampled_from([False, False, False, way != "looks"]))
    noise = draw(st.lists(st.integers(-1000, 1000).map(lambda value: value / 1000), min_size=count, max_size=count))
    overheads = [middle + spread * each for each in noise]
    first = draw(st.none() | st.integers(2, len(overheads))) if len(overheads) > 1 and way != "looks" else None
    # Between the bounds with and without the extension lie the limits that distinguish them.
    others = [(first, way), (None, way), (first, "before")]
    uppers = [
        bounds_by_hand(overheads, each, 0.95, way=other, fixed=fixed)[1] for each, other in others if len(overheads) > 1
    ] or [1.0]
    between = round(max(0.0, sum(uppers) / len(uppers)), 4)
    given_to_run, asked = (between if draw(st.booleans()) else draw(LIMITS) for _ in range(2))
    margin = draw(st.sampled_from([0.5, 1.0, 5.0]))
    return {
        "overheads": overheads,
        "first": first,
        "way": way,
        "fixed": fixed,
        "margin": margin,
        "own": given_to_run,
        "asked": asked,
    }


@settings(max_examples=250, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_plugin_gate_badge_page_and_tables_agree_on_a_limit(case: Any) -> None:
    asked, own = case["asked"], case["own"]
    plan = PLANS[case["way"]]
    row = row_of(case["overheads"], first=case["first"], fixed=case["fixed"], margin=case["margin"], own=own, plan=plan)
    document = report_of(row)
    wanted = own if asked is None else asked

    def expected(limit: float) -> LimitVerdict:
        asked_of = {name: case[name] for name in ("first", "fixed", "margin", "way")}
        return by_hand(case["overheads"], limit=limit, **asked_of)

    own_verdict = None if own is None else expected(own)
    assert (None if own is None else row["limit"]["judgement"]) == own_verdict
    assert (failure_of({"list": "rows", "record": row}, Options()) == "") is (own_verdict in {None, LimitVerdict.WITHIN})
    for shown in (markdown(document), row_details(document, row, is_open=True)):
        assert (own is not None) is (own_verdict is not None and f"{own_verdict.value} of {own:g} %" in shown)

    found = gated(row, asked)
    limit_verdict = None if wanted is None else expected(wanted)
    objected = [each for each in found.objections if each.path.endswith(".overheadPct")]
    assert bool(objected) is (limit_verdict not in {None, LimitVerdict.WITHIN})
    assert (found.ruling is Ruling.PASSED) is (limit_verdict in {None, LimitVerdict.WITHIN} and not implausible(row))
    colour = badge(document, sound=True, max_overhead_pct=asked).colour
    assert (colour == GREEN) is (limit_verdict is LimitVerdict.WITHIN)
    assert colour != BLUE or limit_verdict is None


def test_extended_row_whose_own_limit_is_inconclusive_passes_nowhere() -> None:
    """The bound of all rounds together is under the limit; that of the rule the row was extended by is not."""
    row = row_of(NOISY, first=2, own=3.0)

    assert row["limit"]["judgement"] == "inconclusive"
    assert row["limit"]["upper95Pct"] == pytest.approx(3.65, abs=0.02)
    for asked in (None, 3.0):
        assert gated(row, asked).ruling is Ruling.INCONCLUSIVE
        assert badge(report_of(row), sound=True, max_overhead_pct=asked).colour != GREEN
    assert gated(row, 3.7).ruling is Ruling.PASSED


def test_extended_row_is_judged_alike_from_its_report_alone() -> None:
    """Through the report itself: written, checked, gated, drawn."""

    record, derivation = made_of(NOISY, planned=2)
    document = example.document(record, max_overhead_pct=3.0)

    assert record["record"]["extension"]["firstRounds"] == 2
    checked = check_bytes(report_bytes(document), derivation=derivation)
    assert checked.faults == ()
    assert gate(document, checked, GatePolicy(), now=MADE_AT).ruling is Ruling.INCONCLUSIVE
    assert badge(document, sound=True).colour != GREEN


def made_of(overheads: tuple[float, ...], *, planned: int) -> tuple[Any, Derivation]:
    """The record of a row with these rounds that was given a limit of 3 %, and what it is derived with."""

    def results(observation: Any) -> tuple[RoundResult, ...]:
        first = observation["rounds"][0]["round"] - 1
        return tuple(rounds_of(overheads)[first : first + len(observation["rounds"])])

    spec, seen = example.row(rounds=planned), example.observation(rounds=len(overheads), unseen=())
    for observed in seen["rounds"]:
        observed["protected"]["policy"] |= {"antidebug": {"profile": "strict", "version": 1}, "release_limit": 1}
    if planned < len(overheads):
        seen["plan"] = {"rounds": planned, "halfWidthPct": "0.000001", "maxRounds": len(overheads)}
    real = example.allocation(provider="local", gpu_model="NVIDIA H100 80GB HBM3", gpu_uuid="GPU-5e0c", dry_run=False)
    outcome = Outcome(row=spec, declared=spec, allocation=real, observation=seen)
    record = example.record_of(outcome, example.settings(overridden=(), max_overhead_pct=3.0), rounds=results(seen))
    return record, dataclasses.replace(example.EXAMPLE, results=results)


def test_implausible_negative_fails_limit_and_gate_whatever_its_null_says() -> None:
    """Five per cent faster under protection is a broken comparison, not room under a limit."""
    row = row_of([-5.0, -5.1, -4.9, -5.05, -4.95, -5.0], own=3.0)

    assert "estimates" not in row  # no null was measured at all
    assert row["verdict"] == "implausible negative"
    assert row["limit"]["judgement"] == "inconclusive"
    assert "implausible negative" in failure_of({"list": "rows", "record": row}, Options())
    for asked in (None, 3.0, 50.0):
        assert gated(row, asked).ruling is Ruling.FAILED
    assert badge(report_of(row), sound=True).message == "implausible negative"


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("overheads", [(-69.0,), (1.0, -69.0), (-69.0, -68.0, -70.0, -69.5, -69.0)])
def test_a_single_round_far_below_zero_fails_limit_gate_badge_and_page(overheads: Any, fixed: bool) -> None:
    """What skips half its steps: no rounds more would decide it, and nothing calls it noise."""
    row = row_of(overheads, own=3.0, fixed=fixed)

    assert row["verdict"] == "implausible negative"
    assert "at fault" in row["limit"]["reason"]
    assert "at fault" in failure_of({"list": "rows", "record": row}, Options())
    assert not any(word in row["interpretation"] for word in ("noise", "more rounds"))
    for asked in (None, 3.0, 50.0):
        assert gated(row, asked).ruling is Ruling.FAILED
    assert badge(report_of(row), sound=True).message == "implausible negative"
    assert "at fault" in row_details(report_of(row), row, is_open=True)
    assert "at fault" in markdown(report_of(row))


def test_a_round_below_what_null_rows_of_its_allocation_show_is_implausible() -> None:
    """Raw legs are within half a per cent of each other there, so eight per cent below zero is no measurement."""
    row, null = row_of([-8.0], own=3.0), copy.deepcopy(example.null_row()["record"])
    null |= {name: row[name] for name in ("provider", "allocationName")}
    null |= {"rounds": 3, "differencePct": 0.1, "differenceCi95Pct": [-0.4, 0.6]}
    elsewhere: Any = {**null, "allocationName": "another"}

    assert row["verdict"] == "single sample"
    assert implausible(row, [elsewhere]) == ""
    assert implausible(row, [null])
    shown: Any = {**report_of(row), "nullRows": [null]}
    judged = gate(shown, SOUND, GatePolicy(max_overhead_pct=3.0), now=MADE_AT)
    assert judged.ruling is Ruling.FAILED
    assert badge(shown, sound=True).message == "implausible negative"
    assert "at fault" in row_details(shown, row, is_open=True)
    assert "at fault" in markdown(shown)
    assert not limit_of(row, 3.0, null_rows=[null]).passed  # type: ignore[union-attr]


def test_older_verdict_of_an_implausible_negative_is_kept_by_check_and_refused_by_the_gate() -> None:
    """Before revision 3 a row without a null was `inconclusive`, and its bound under every limit."""
    record, derivation = made_of((-5.0, -5.1, -4.9, -5.05, -4.95, -5.0), planned=6)
    row = record["record"]
    before = row | judged_figures(
        row, order=row["order"], margin_pct=1.0, fixed_order=False, max_overhead_pct=3.0, null_first=True
    )

    def faults(revision: int) -> list[str]:
        of_then = dataclasses.replace(derivation, revision=revision)
        return [path for path, _ in record_faults(before, of_then, max_overhead_pct=3.0)]

    assert (before["verdict"], before["limit"]["judgement"]) == ("inconclusive", "within the limit")
    assert faults(2) == []
    assert ".verdict" in faults(3)
    assert gated(before, None).ruling is Ruling.FAILED


def test_recorded_verdict_alone_makes_a_row_implausible() -> None:
    row = row_of([1.0, 1.1, 0.9, 1.0, 1.05])

    assert limit_of(row, 3.0).passed  # type: ignore[union-attr]
    row["verdict"] = "implausible negative"
    assert not limit_of(row, 3.0).passed  # type: ignore[union-attr]


def test_null_row_is_under_no_limit() -> None:
    record = example.null_row()["record"]

    assert limit_of(record, 3.0) is None
    assert failure_of({"list": "nullRows", "record": record}, Options()) == ""


def test_extended_rounds_count_as_rounds_at_the_gate() -> None:
    row = row_of([1.0] * 8, first=5)

    assert row["rounds"] == 5
    assert gate(report_of(row), SOUND, GatePolicy(min_rounds=8), now=MADE_AT).ruling is Ruling.PASSED
    assert gate(report_of(row), SOUND, GatePolicy(min_rounds=9), now=MADE_AT).ruling is Ruling.FAILED


def test_difference_of_extended_rows_has_the_spread_of_their_first_rounds() -> None:
    """As their own intervals have; otherwise `compare` shows a difference where there is none."""
    extended, plain = (row_of(NOISY, first=first) for first in (2, None))
    intervals = [compare(report_of(row), report_of(row)).pairs[0].difference.ci95 for row in (extended, plain)]

    assert intervals[0] is not None
    assert intervals[1] is not None
    assert intervals[0].half_width > 2 * intervals[1].half_width
    interval = interval_pct(log_ratios(extended), level=0.95, sampling=sampling_of(extended))
    assert interval is not None
    assert extended["overheadCi95Pct"] == [interval.low, interval.high]


def test_impossible_rates_give_a_bound_and_no_error() -> None:
    """The figures of an untrusted report may be any doubles; a badge or a gate must refuse them without a crash."""
    row = row_of([1.0] * 6)
    for each in row["roundFigures"]:
        each["protectedPerSec"], each["rawPerSec"] = 1e308, 1e-308

    assert gated(row, 3.0).ruling is Ruling.FAILED


def test_no_other_module_judges_a_limit() -> None:
    """Who calls `judge_limit` with less than the record has found a second answer."""
    root = Path(pytest_glasshouse.__file__).parent
    callers = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Name | ast.Attribute) and getattr(node, "id", getattr(node, "attr", "")) == "judge_limit"
    }

    # The looks of a row that may end early see rounds that are no record yet; the last of them is judged as a record.
    assert callers == {"analysis/row_limits.py", "analysis/looks.py"}
