"""Reports into pools: every completed round, three allocations or no name, and nothing counted twice."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pytest_glasshouse.check.pooling import groups, lines
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.observation.outcome import Ended, Outcome
from pytest_glasshouse.overhead.verdict import Verdict
from tests.unit.report import example

REAL: dict[str, Any] = {"provider": "runpod", "gpu_model": "NVIDIA H100 80GB HBM3", "dry_run": False}


def report(number: int, *, rounds: int = 2, uuid: str | None = "", **changes: Any) -> Any:
    """A report of one measured row on an allocation of its own."""
    facts = {**REAL, "name": f"glasshouse-{number}", "gpu_uuid": f"GPU-{number}" if uuid == "" else uuid, **changes}
    record = example.measured(rounds=rounds, allocation=example.allocation(**facts))
    return example.document(record, run_id=f"run-{number}", cleanup=())


def qualified(document: Any) -> Any:
    changed = copy.deepcopy(document)
    changed["rows"][0]["nullQualifies"] = True
    return changed


def test_three_allocations_are_pooled_and_named() -> None:
    (group,) = groups([report(n) for n in range(3)], derive=example.results)

    completed, qualifying = group.pooled(margin_pct=1.0)

    assert completed is not None
    assert (completed.allocations, completed.rounds) == (3, 6)
    assert qualifying is None
    found = list(lines(group, margin_pct=1.0))
    assert "NVIDIA H100 80GB HBM3" in found[0]
    assert "95 % interval" in found[1]
    assert "no figure" in found[2]


def test_two_allocations_have_no_figure_and_no_gpu() -> None:
    (group,) = groups([report(n) for n in range(2)], derive=example.results)

    text = "\n".join(lines(group, margin_pct=1.0))

    assert "H100" not in text
    assert "%" not in text
    assert "2 allocations, a pool takes 3" in text


def test_same_gpu_rented_again_is_one_allocation() -> None:
    (group,) = groups([report(n, uuid="GPU-7") for n in range(3)], derive=example.results)

    assert group.pooled(margin_pct=1.0) == (None, None)
    assert [len(values) for values in group.completed.values()] == [6]


def test_rows_whose_null_qualified_are_pooled_beside_all() -> None:
    documents = [qualified(report(n)) for n in range(3)] + [report(3)]

    (group,) = groups(documents, derive=example.results)
    completed, qualifying = group.pooled(margin_pct=5.0)

    assert completed is not None
    assert qualifying is not None
    assert (completed.allocations, qualifying.allocations) == (4, 3)


def test_completed_rounds_of_excluded_rows_count() -> None:
    """Leaving out rows that went wrong is how a pool comes out as hoped."""
    documents = [report(n) for n in range(3)]
    base = example.row(name="mlp-ended")
    ended = Ended(outcome="failed", reason="for the sake of example", decision="excluded")
    outcome = Outcome(
        row=base,
        declared=base,
        allocation=example.allocation(**REAL, name="glasshouse-9", gpu_uuid="GPU-9"),
        observation=example.observation(rounds=3),
        ended=ended,
    )
    documents.append(example.document(example.record_of(outcome), run_id="run-9", cleanup=()))

    (group,) = groups(documents, derive=example.results)

    assert len(group.completed["GPU-9"]) == 3
    assert "GPU-9" not in group.qualifying


def test_row_that_never_ran_counts_for_nothing() -> None:
    assert groups([example.document(example.lost(), run_id="run-1", cleanup=())], derive=example.results) == []


def test_unlike_gpus_are_not_pooled() -> None:
    documents = [report(0), report(1), report(2, gpu_model="NVIDIA RTX A4000")]

    found = groups(documents, derive=example.results)

    assert len(found) == 2
    assert all(group.pooled(margin_pct=1.0)[0] is None for group in found)


def test_dry_runs_name_no_gpu() -> None:
    documents = [report(n, dry_run=True, gpu_model="CPU: Example", uuid=None) for n in range(3)]

    (group,) = groups(documents, derive=example.results)
    found = list(lines(group, margin_pct=1.0))

    assert "dry run" in found[0]
    assert "CPU" not in found[0]


def test_report_given_twice_is_refused() -> None:
    with pytest.raises(ReportError, match="given twice"):
        groups([report(1), report(1)], derive=example.results)


def test_pool_that_lies_below_zero_is_called_implausible() -> None:
    documents = [report(n) for n in range(3)]
    for document in documents:
        for each in document["rows"][0]["roundFigures"]:
            each["rawPerSec"] = each["protectedPerSec"] * 0.9

    (group,) = groups(documents, derive=example.results)
    completed, _ = group.pooled(margin_pct=1.0)

    assert completed is not None
    assert completed.judged.verdict is Verdict.IMPLAUSIBLE_NEGATIVE
