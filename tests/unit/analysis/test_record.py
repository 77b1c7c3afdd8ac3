"""A row's record, and that it never claims more than its findings."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from pytest_glasshouse.analysis.record import RecordSettings, build_record
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.observation.outcome import Ended, Outcome
from pytest_glasshouse.report.schema import schema_faults
from tests.unit.report import example

FIGURE = ("overhead", "PerSec", "Units", "ElapsedSec", "interpretation")


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value) | {name for item in value.values() for name in keys_of(item)}
    return {name for item in value for name in keys_of(item)} if isinstance(value, list) else set()


def test_measured_row_carries_both_legs_and_recomputes() -> None:
    """The published formula, from what stands beside it."""
    row = example.measured()["record"]

    protected, raw = row["protectedUnits"] / row["protectedElapsedSec"], row["rawUnits"] / row["rawElapsedSec"]
    assert row["overheadPct"] == (1 - protected / raw) * 100
    assert (row["protectedPerSec"], row["rawPerSec"]) == (protected, raw)


def test_seconds_keep_the_nanoseconds() -> None:
    assert example.measured()["record"]["protectedElapsedSec"] == 2.000123457


def test_rounds_are_totals_with_a_figure_for_each() -> None:
    row = example.measured(rounds=3)["record"]

    assert row["protectedUnits"] == sum(each["protectedUnits"] for each in row["roundFigures"])
    assert [each["round"] for each in row["roundFigures"]] == [1, 2, 3]
    assert row["protectedPhasesSec"]["load"] == pytest.approx(3 * 0.012345678)
    assert row["verdict"] == "too few rounds"
    low, high = row["overheadCi95Pct"]
    assert low < row["roundsMeanPct"] < high


def test_recorded_gpu_is_the_one_that_ran_and_not_the_one_that_was_named() -> None:
    """A dry run on a CPU must not be mistaken for the GPU its row is about."""
    row = example.measured()["record"]

    assert row["namedGpuModel"] == "NVIDIA H100 80GB HBM3"
    assert row["gpuModel"] == "CPU: Example Processor 9000"
    assert not row["publishable"]
    assert "not the GPU the row names" in row["unpublishableBecause"]


def test_peak_memory_that_was_not_seen_is_null_with_a_reason() -> None:
    row = example.measured()["record"]

    assert row["protectedPeakMemory"] == {"bytes": 123_456_789, "reason": None}
    assert row["rawPeakMemory"]["bytes"] is None
    assert row["rawPeakMemory"]["reason"]


def test_shortened_row_is_not_as_declared_and_names_what_was_overridden() -> None:
    row = example.measured()["record"]

    assert row["asDeclared"] is False
    assert row["declared"] == {"order": "protected-first", "rounds": 1, "targetSec": 60.0}
    assert row["overridden"] == ["target", "warmup"]
    assert "shortened target" in row["unpublishableBecause"]


def test_adapter_is_recorded_where_it_is_another_than_the_published_rows() -> None:
    """Two ranks are two measurements; a row with the default adapter keeps its old record."""
    lora = {"workload": "lora", "model": "some/model"}
    outcome = Outcome(
        row=example.row(**lora, rank=8, targets=("qkv_proj",)), declared=example.row(**lora), allocation=None, observation={},
        ended=Ended(outcome="lost", reason="gone", decision="run again"),
    )  # fmt: skip
    lost_row = example.record_of(outcome)
    assert lost_row["record"]["adapter"] == {"rank": 8, "targets": ["qkv_proj"]}
    assert "adapter" not in example.record_of(dataclasses.replace(outcome, row=outcome.declared))["record"]
    document = example.document(lost_row)
    assert list(schema_faults(document)) == []
    document["excludedResults"][0]["adapter"]["targets"] = ["q proj"]
    assert list(schema_faults(document)) != []


def test_row_as_declared_on_the_gpu_it_names_is_publishable() -> None:
    row = example.publishable()["record"]

    assert row["asDeclared"] is True
    assert row["declared"] is None
    assert (row["publishable"], row["unpublishableBecause"]) == (True, [])


def test_target_of_another_kind_counts_as_shortened() -> None:
    record = example.publishable(row=example.row(target_s=None, steps=1_000_000))["record"]

    assert "shortened target" in record["unpublishableBecause"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"allocation": example.allocation(gpu_model="NVIDIA H100 80GB HBM3", dry_run=True)}, "dry run"),
        ({"allocation": example.allocation(gpu_model="NVIDIA H100 80GB HBM3", simulated=True)}, "simulated provider"),
        ({"observation": {**example.observation(unseen=()), "material": {"standIn": True}}}, "stand-in model"),
        ({"row": example.row(warmup_s=0.0)}, "shortened target"),
    ],
)
def test_what_makes_a_row_unpublishable_is_named(changes: dict[str, Any], reason: str) -> None:
    assert reason in example.publishable(**changes)["record"]["unpublishableBecause"]


def test_reasons_of_the_run_make_every_row_unpublishable() -> None:
    record = example.publishable(given=example.settings(unpublishable=("referenceSource: checkout",)))["record"]

    assert record["unpublishableBecause"] == ["referenceSource: checkout"]


def test_treatment_is_what_the_journal_shows() -> None:
    assert example.measured()["record"]["treatment"] == ["anti-debug", "attestation", "journal", "sealed source", "zeroize"]


@pytest.mark.parametrize(
    ("invariant", "field", "held", "broken"),
    [
        ("attestation verified", "attestation", "verified", "rejected"),
        ("runtime zeroized", "runtimeState", "zeroized", "terminated"),
        ("raw callback completed", "rawCallback", "completed", "lost"),
        ("same allocation", "sameAllocation", True, False),
    ],
)
def test_states_are_derived_from_findings(invariant: str, field: str, held: Any, broken: Any) -> None:
    """A constant would be a lie the first time it matters."""
    states = {
        state: example.excluded_by(example.finding(invariant, state))["record"][field] for state in ("held", "broken", "unseen")
    }

    assert states["held"] == held
    assert states["broken"] == broken
    assert states["unseen"] == (None if field == "sameAllocation" else "unseen")


def test_state_without_a_finding_is_unseen() -> None:
    record = example.lost()["record"]

    assert (record["attestation"], record["runtimeState"], record["rawCallback"]) == ("unseen",) * 3
    assert record["sameAllocation"] is None


def test_broken_finding_excludes_the_row_and_names_the_invariant() -> None:
    observation = example.observation()
    observation["allocation"]["broken"] = ["same work"]

    record = example.measured(observation=observation)

    assert record["list"] == "excludedResults"
    assert record["record"]["outcome"] == "failed"
    assert "same work broken" in record["record"]["reason"]


@pytest.mark.parametrize(("name", "listed"), [("memory scanned clean", "rows"), ("same work", "excludedResults")])
def test_unseen_finding_passes_only_when_waived(name: str, listed: str) -> None:
    assert example.measured(observation=example.observation(unseen=(name,)))["list"] == listed


def test_broken_finding_is_never_waived() -> None:
    observation = example.observation(unseen=())
    observation["allocation"]["broken"] = ["memory scanned clean"]

    assert example.measured(observation=observation)["list"] == "excludedResults"


@pytest.mark.parametrize("record", [example.excluded(), example.lost()])
def test_excluded_row_has_no_figure_at_any_depth(record: Any) -> None:
    """An overhead of a row that did not count is the first thing that would be quoted."""
    body = {name: value for name, value in record["record"].items() if name != "observation"}

    assert not [name for name in keys_of(body) if any(part in name for part in FIGURE)]
    assert (body["verdict"], body["publishable"]) == ("excluded", False)


def test_published_exclusion_is_reproduced() -> None:
    record = example.excluded()

    assert record["list"] == "excludedResults"
    assert record["record"]["outcome"] == "excluded"
    assert record["record"]["rawCallback"] == "lost"
    assert record["record"]["runtimeState"] == "zeroized"
    assert record["record"]["lifecycle"] == {"attempted": 1, "held": 1}


def test_row_with_a_round_missing_is_excluded() -> None:
    row = example.row(rounds=2)
    outcome = Outcome(row=row, declared=row, allocation=example.allocation(), observation=example.observation(rounds=1))

    record = example.record_of(outcome)

    assert (record["list"], record["record"]["roundsCompleted"]) == ("excludedResults", 1)


def test_row_without_findings_is_an_error() -> None:
    row = example.row()
    outcome = Outcome(row=row, declared=row, allocation=example.allocation(), observation=example.observation())

    assert example.record_of(outcome, findings=())["record"]["outcome"] == "error"


def test_ended_row_keeps_its_own_reason_and_decision() -> None:
    ended = Ended(outcome="infrastructure", reason="no capacity", decision="nothing was rented; try again")

    record = example.excluded(ended=ended)["record"]

    assert (record["outcome"], record["reason"], record["decision"]) == (ended.outcome, ended.reason, ended.decision)


def test_digest_in_a_findings_reason_is_cut_short() -> None:
    """Whole, it looks like a provider's key, and the redaction gate would stop the report."""
    changed = dataclasses.replace(example.finding("same work"), seen=f"head {example.digest('x')}")

    (found,) = (each for each in example.excluded_by(changed)["record"]["findings"] if each["invariant"] == "same work")

    assert found["seen"] == f"head {example.digest('x')[:16]}..."


@pytest.mark.parametrize("loss", ["nan", "inf", "none"])
def test_loss_that_is_not_finite_has_no_record(loss: str) -> None:
    with pytest.raises(ReportError, match="final loss"):
        example.measured_with(final_loss=loss)


@pytest.mark.parametrize(
    ("changes", "message"), [({"units": 0}, "units"), ({"elapsed_ns": 0}, "seconds"), ({"unit": "steps"}, "units")]
)
def test_leg_that_measured_nothing_has_no_record(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReportError, match=message):
        example.measured_with(**changes)


def test_limit_is_judged_only_when_one_was_given() -> None:
    with_limit = example.measured(given=example.settings(max_overhead_pct=5.0))["record"]

    assert example.measured()["record"]["limit"] is None
    assert with_limit["limit"]["judgement"] == "inconclusive"
    assert with_limit["limit"]["reason"] == "one round has no upper bound"


def test_fixed_order_allows_no_other_verdict() -> None:
    row = example.measured(rounds=6, given=example.settings(fixed_order=True))["record"]

    assert row["verdict"] == "single order"


def test_sequential_rounds_without_a_null_are_inconclusive() -> None:
    row = example.measured(rounds=6)["record"]

    assert (row["verdict"], row["verdictReason"], row["moreRounds"]) == ("inconclusive", "no null was measured", None)


def test_margin_is_the_rows_own_unless_the_run_says_otherwise() -> None:
    assert example.measured(given=RecordSettings(waived=example.WAIVED))["record"]["marginPct"] == 1.0
    assert example.measured(given=example.settings(margin_pct=0.5))["record"]["marginPct"] == 0.5


def test_record_travels_as_one_json_text() -> None:
    record = example.measured()

    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_lifecycle_begun_and_not_finished_counts_as_attempted() -> None:
    """Judged by the project's own invariants, which is what happens when none are given."""
    row = example.row()
    observation = example.observation()
    observation["rounds"][0] |= {"protected": {"plan": example.digest("plan")}, "raw": None, "guest": []}
    ended = Ended(outcome="lost", reason="the guest is gone", decision="run it again")
    outcome = Outcome(row=row, declared=row, allocation=example.allocation(), observation=observation, ended=ended)

    record: Any = build_record(outcome, (), (), example.settings())

    assert record["record"]["lifecycle"] == {"attempted": 1, "held": 0}


def test_row_judged_by_a_checkouts_reference_values_is_not_publishable() -> None:
    """Sources that can be edited between two rows are no reference for a published one."""
    seen = example.observation(unseen=())
    seen["allocation"]["referenceSource"] = "checkout"

    assert "reference values from a checkout" in example.publishable(observation=seen)["record"]["unpublishableBecause"]


def test_broken_findings_are_listed_before_unseen_ones() -> None:
    """The unseen is often only a consequence, and the beginning of the reason is what is read."""
    seen = example.observation(unseen=("attestation verified",))
    seen["allocation"]["broken"] = ["same work"]

    assert example.measured(observation=seen)["record"]["reason"].startswith("same work broken")
