"""What failed is one list, and every place that shows a report takes it from there."""

from __future__ import annotations

import dataclasses
from typing import Any

from pytest_glasshouse.analysis.record import finding_json
from pytest_glasshouse.invariants.finding import FOLLOWS
from pytest_glasshouse.report.failures import causes_first, failure_of, failures, rows_of
from tests.unit.report import example


def broken(name: str = "left-behind") -> Any:
    """The record of a row in which one invariant is broken and another one unseen."""
    zeroized = dataclasses.replace(example.finding("runtime zeroized", "broken"), reason="80 copies left")
    record = example.excluded_by(zeroized)
    record["record"] |= {"name": name, "reason": "runtime zeroized broken: 80 copies left; another unseen: lost"}
    return record


def test_broken_rows_come_before_those_that_were_lost() -> None:
    document = example.document(example.measured(), example.lost(), broken())

    assert [each.name for each in failures(rows_of(document))] == ["left-behind", "mlp-h100-lost"]


def test_failure_begins_with_the_invariant_that_broke() -> None:
    found = failure_of(broken()["record"])

    assert found is not None
    assert found.line == "left-behind: runtime zeroized broken: 80 copies left"


def test_failure_of_a_row_that_ended_early_says_why_it_did() -> None:
    found = failure_of(example.excluded()["record"])

    assert found is not None
    assert found.cause.startswith(
        "raw callback completed broken: the raw callback never reported completion after the guest exited"
    )
    assert found.cause.endswith("(and 3 more that did not hold)")


def test_row_over_its_limit_failed_though_it_was_measured() -> None:
    given = example.settings(max_overhead_pct=0.5)
    found = failure_of(example.measured(rounds=6, given=given)["record"])

    assert found is not None
    assert found.outcome in ("over the limit", "inconclusive")
    assert "at most 0.5 % overhead was asked for" in found.cause


def test_measured_row_did_not_fail() -> None:
    assert failure_of(example.measured()["record"]) is None


def test_what_only_follows_comes_after_causes() -> None:
    def judged(invariant: str, state: Any, todo: str) -> Any:
        return {**finding_json(example.finding(invariant, state)), "todo": todo}

    given = [
        judged("a", "held", ""),
        judged("b", "unseen", f"{FOLLOWS}d"),
        judged("c", "unseen", "look"),
        judged("d", "broken", ""),
    ]

    assert [each["invariant"] for each in causes_first(given)] == ["d", "c", "b", "a"]
