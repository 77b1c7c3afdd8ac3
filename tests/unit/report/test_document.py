"""The whole report: each row once, counted as what it was, and nothing publishable on an allocation that may still run."""

from __future__ import annotations

import dataclasses

import pytest

from pytest_glasshouse.check.check import Level, check_bytes
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.document import AllocationCleanup, measured_on_named_gpu
from pytest_glasshouse.report.schema import validate
from tests.unit.report import example

RELEASE = {
    "nonce": example.digest("n"),
    "sub": "run-1/row/0a",
    "run": "run-1",
    "manifest": example.digest("m"),
    "released_at": 1,
    "deadline": 2,
}


def test_summary_counts_every_row_by_its_outcome() -> None:
    counts = example.document()["summary"]

    assert (counts["selected"], counts["measured"], counts["excluded"], counts["lost"]) == (3, 1, 1, 1)
    assert (counts["dryRun"], counts["publishable"], counts["measuredOnNamedGpu"]) == (3, 0, 0)
    assert (counts["tamperPassed"], counts["tamperAttempted"]) == (2, 2)
    assert (counts["lifecycle"]["held"], counts["lifecycle"]["attempted"]) == (2, 2)
    assert counts["lifecycle"]["lower95"] == pytest.approx(0.05**0.5)


def test_row_that_appears_twice_is_refused() -> None:
    with pytest.raises(ReportError, match="more than once: mlp-h100-60s"):
        example.document(example.measured(), example.measured())


@pytest.mark.parametrize("status", ["leak", "unproven"])
def test_cleanup_that_is_not_proven_makes_its_rows_unpublishable(status: str) -> None:
    """A leaked allocation may still hold the plaintext, and the bill."""
    cleanup = AllocationCleanup(
        provider="mock",
        name="glasshouse-run-1-a",
        provider_instance_id="mock-1",
        status=status,  # type: ignore[arg-type]
        reason="terminate failed",
    )

    document = example.document(example.publishable(), cleanup=(cleanup,))

    assert document["cleanup"]["status"] == status
    assert document["rows"][0]["publishable"] is False
    assert f"cleanup {status}" in document["rows"][0]["unpublishableBecause"]
    assert check_bytes(report_bytes(document), derivation=example.EXAMPLE).faults == ()


def test_allocation_without_a_cleanup_report_is_unproven() -> None:
    document = example.document(example.publishable(), cleanup=())

    assert document["cleanup"]["status"] == "unproven"
    assert document["rows"][0]["publishable"] is False


def test_outstanding_release_is_in_the_report() -> None:
    document = validate(example.document(outstanding_releases=(RELEASE,)))

    assert document["summary"]["outstandingReleases"][0]["sub"] == "run-1/row/0a"


def test_unseen_invariants_are_listed_among_the_claims() -> None:
    assert example.document()["claims"]["notShown"] == ["memory scanned clean: the example says unseen"]


@pytest.mark.parametrize(
    ("change", "passed"),
    [
        ({}, True),
        ({"seen_reason": "signature"}, False),
        ({"seen_reason": None, "released": True}, False),
        ({"seen_nonce": "open"}, False),
        ({"control_released": False}, False),
    ],
)
def test_tamper_case_passes_only_for_its_own_reason(change: dict[str, object], passed: bool) -> None:
    refused = dataclasses.replace(example.tamper()[0], **change)  # type: ignore[arg-type]

    document = example.assembled((example.measured(),), tamper=(refused,))

    assert document["tamper"][0]["passed"] is passed
    assert refused.passed is passed


def test_rows_under_one_policy_name_it() -> None:
    assert example.document()["policySha256"] == example.digest("policy")


def test_rows_under_several_policies_name_all_of_them_in_one_digest() -> None:
    other = example.observation()
    other["rounds"][0]["protected"]["policySha256"] = example.digest("another")

    document = example.document(example.measured(), example.measured(name="b", observation=other))

    assert document["policySha256"] not in {None, example.digest("policy"), example.digest("another")}


def test_run_without_rows_is_a_report_that_validates() -> None:
    document = validate(example.assembled(()))

    assert document["summary"]["lifecycle"] == {"held": 0, "attempted": 0, "lower95": None}
    assert check_bytes(report_bytes(document), derivation=example.EXAMPLE).level is Level.CONSISTENT


def test_only_a_real_run_on_the_named_gpu_counts_as_measured_on_it() -> None:
    assert measured_on_named_gpu(example.publishable()["record"])
    assert not measured_on_named_gpu(example.measured()["record"])


@pytest.mark.parametrize("order", ["protected", {"first": "raw"}, ["raw", "raw"]])
def test_order_that_is_no_list_of_two_legs_is_refused_with_its_place(order: object) -> None:
    """Whether its items differ is asked of a list only."""
    document = example.document()
    document["rows"][0]["roundFigures"][0]["order"] = order
    with pytest.raises(ReportError, match=r"the report does not validate: \$\.rows\[0\]\.roundFigures\[0\]\.order: "):
        validate(document)
