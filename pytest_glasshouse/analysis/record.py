"""One row's record: which list it belongs to, and every field of it.

Findings are computed by `invariants`; a state in a record is derived from a finding, and without the finding it is `unseen`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.costs import price
from pytest_glasshouse.analysis.covariates import covariates, disturbances
from pytest_glasshouse.analysis.extension import extension, extension_figures
from pytest_glasshouse.analysis.fields import Record
from pytest_glasshouse.analysis.figures import judged_figures, measured_legs, row_figures
from pytest_glasshouse.analysis.lifecycle import lifecycle
from pytest_glasshouse.analysis.looks import sequential_figures
from pytest_glasshouse.analysis.null_row import null_figures
from pytest_glasshouse.analysis.planned_rounds import pairs_of_round, rounds_in_all
from pytest_glasshouse.analysis.publishable import unique, unpublishable_because
from pytest_glasshouse.analysis.row_cut import cut_figures
from pytest_glasshouse.analysis.sampling import is_current, sampled
from pytest_glasshouse.analysis.scaling import scaling
from pytest_glasshouse.analysis.sealed_row import sealed_figures
from pytest_glasshouse.analysis.segments import design, segments, steady
from pytest_glasshouse.observation.reading import cache_state, invariant_key, journals, stand_in, strict_memory, treatment
from pytest_glasshouse.overhead.verdict import Verdict
from pytest_glasshouse.rows.interleaving import interleaving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import (
        AddedLater,
        AllocationFields,
        BaseRecord,
        ExcludedRow,
        Exclusion,
        FindingRecord,
        FindingStates,
        GpusRecord,
        MeasuredRow,
        NullRow,
        OptionalAllocationFields,
        ParametersRecord,
        RowAsRun,
        SealedRow,
        Waived,
        Work,
    )
    from pytest_glasshouse.analysis.figure_fields import DataOrderSeeds, SteadyRecord, TurnsRecord, WorkloadFactsRecord
    from pytest_glasshouse.invariants import Finding
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.outcome import AllocationFacts, Outcome
    from pytest_glasshouse.observation.results import RoundResult
    from pytest_glasshouse.rows.spec import RowSpec

    Judge = Callable[[Observation], Sequence[Finding]]

_LATER: AddedLater = {}
_EXCLUDED = "Excluded from overhead calculation"
_DIGEST_IN_TEXT = re.compile(r"(?<![0-9A-Za-z])([0-9a-f]{16})[0-9a-f]{48}(?![0-9A-Za-z])")


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What the run asked for, beyond the row itself.

    `overridden` names the options that changed the row. `waived` maps an invariant to why this run does not require it
    (`unseen` only: a broken finding is never waived). `unpublishable` are the run's own reasons against publishing.
    """

    margin_pct: float | None = None
    """None: the row's own."""
    seed: int | None = None
    leg_seconds: float | None = None
    leg_steps: int | None = None
    fixed_order: bool = False
    max_overhead_pct: float | None = None
    overridden: tuple[str, ...] = ()
    waived: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    unpublishable: tuple[str, ...] = ()


def build_record(
    outcome: Outcome,
    rounds: Sequence[RoundResult],
    findings: Iterable[Finding],
    settings: RecordSettings,
    *,
    judge: Judge | None = None,
) -> Record:
    """The unsealed record of one row: `{"list": "rows" | "sealedRows" | "nullRows" | "excludedResults", "record": {...}}`.

    A row is measured when it did not end early, both legs of every round it asked for are there, and every finding held
    or is waived. Anything else is an excluded result and carries no rate and no overhead.
    """
    found = [finding_json(each) for each in findings]
    exclusion = _exclusion(outcome, rounds, found, settings)
    if exclusion is not None:
        return {"list": "excludedResults", "record": _excluded(outcome, rounds, found, settings, exclusion, judge=judge)}
    allocation = outcome.allocation
    assert allocation is not None  # noqa: S101  (a row without one is excluded; for the type checker)
    margin_pct = outcome.row.margin_pct if settings.margin_pct is None else settings.margin_pct
    if outcome.row.null:
        null: NullRow = {
            **_as_run(outcome, settings),
            **_allocation_fields(allocation),
            "marginPct": margin_pct,
            "seed": settings.seed,
            **null_figures(rounds, margin_pct=margin_pct, current=is_current(outcome.observation)),
            **cut_figures(outcome.observation, rounds),
            **design(outcome.observation),
            "steady": steady(rounds),
            "segments": segments(rounds),
            **covariates(outcome.observation),
            "findings": found,
            "observation": outcome.observation,
            "dryRun": allocation.dry_run,
            "simulated": allocation.simulated,
            **_LATER,
        }
        return {"list": "nullRows", "record": null}
    if outcome.row.sealed:
        return {"list": "sealedRows", "record": _sealed(outcome, allocation, rounds, found, settings, judge=judge)}
    extended = extension(outcome.observation, rounds)
    first_rounds = None if extended is None else extended.first_rounds
    sampling = sampled(outcome.observation, [each.order for each in rounds], first_rounds=first_rounds)
    figures = row_figures(rounds, sampling=sampling, usd_per_hour=price(outcome.observation))
    judged = judged_figures(
        figures,
        order=outcome.row.order,
        margin_pct=margin_pct,
        fixed_order=settings.fixed_order,
        max_overhead_pct=settings.max_overhead_pct,
        sampling=sampling,
        current=is_current(outcome.observation),
    )
    reasons = unpublishable_because(outcome, found, settings.unpublishable)
    row: MeasuredRow = {
        **_as_run(outcome, settings),
        **_allocation_fields(allocation),
        **figures,
        **judged,
        **extension_figures(extended, outcome.observation, rounds),
        **cut_figures(outcome.observation, rounds),
        **sequential_figures(outcome.observation, rounds),
        "marginPct": margin_pct,
        "seed": settings.seed,
        "findings": found,
        "waived": _waived(found, settings),
        **finding_states(found),
        "treatment": treatment(outcome.observation),
        "standIn": stand_in(outcome.observation),
        **cache_state(outcome.observation),
        **covariates(outcome.observation),
        **strict_memory(outcome.observation),
        "dataOrderSeeds": data_order_seeds(rounds),
        "workloadFacts": workload_facts(rounds),
        **turns(outcome.observation, rounds),
        **scaling(outcome.observation, rounds),
        "journal": journals(outcome.observation),
        "lifecycle": lifecycle(outcome.observation, waived=settings.waived, judge=judge),
        "observation": outcome.observation,
        "dryRun": allocation.dry_run,
        "simulated": allocation.simulated,
        "publishable": not reasons,
        "unpublishableBecause": reasons,
        **_LATER,
    }
    return {"list": "rows", "record": row}


def _sealed(
    outcome: Outcome,
    allocation: AllocationFacts,
    rounds: Sequence[RoundResult],
    found: list[FindingRecord],
    settings: RecordSettings,
    *,
    judge: Judge | None,
) -> SealedRow:
    """The record of a row without a raw leg: its lifecycle, and the rate of its protected leg."""
    reasons, states = unpublishable_because(outcome, found, settings.unpublishable), finding_states(found)
    return {
        **_as_run(outcome, settings),
        **_allocation_fields(allocation),
        "confidential": True,
        **sealed_figures(rounds),
        "seed": settings.seed,
        "findings": found,
        "waived": _waived(found, settings),
        "attestation": states["attestation"],
        "runtimeState": states["runtimeState"],
        "sameAllocation": states["sameAllocation"],
        "treatment": treatment(outcome.observation),
        "standIn": stand_in(outcome.observation),
        **cache_state(outcome.observation),
        **strict_memory(outcome.observation),
        "journal": journals(outcome.observation),
        "lifecycle": lifecycle(outcome.observation, waived=settings.waived, judge=judge),
        "observation": outcome.observation,
        "dryRun": allocation.dry_run,
        "simulated": allocation.simulated,
        "publishable": not reasons,
        "unpublishableBecause": reasons,
        **_LATER,
    }


def _excluded(
    outcome: Outcome,
    rounds: Sequence[RoundResult],
    found: list[FindingRecord],
    settings: RecordSettings,
    why: Exclusion,
    *,
    judge: Judge | None,
) -> ExcludedRow:
    allocation = outcome.allocation
    return {
        **_as_run(outcome, settings),
        **_allocation_fields_if_any(allocation),
        "roundsCompleted": sum(_complete(each, rounds, outcome) for each in rounds),
        **why,
        "verdict": Verdict.EXCLUDED.value,
        "findings": found,
        "waived": _waived(found, settings),
        **finding_states(found),
        "lifecycle": lifecycle(outcome.observation, waived=settings.waived, judge=judge),
        "observation": outcome.observation,
        "dryRun": allocation is None or allocation.dry_run,
        "simulated": allocation is not None and allocation.simulated,
        "publishable": False,
        "unpublishableBecause": unique(["not measured", *unpublishable_because(outcome, found, settings.unpublishable)]),
        **_LATER,
    }


def finding_json(finding: Finding) -> FindingRecord:
    """A finding as the report holds it. Digests in its sentences are cut short: whole, they would look like keys."""
    return {
        "invariant": finding.invariant,
        "finding": finding.finding,
        "evidence": finding.evidence,
        "reason": _shortened_digests(finding.reason),
        "expected": _shortened_digests(finding.expected),
        "seen": _shortened_digests(finding.seen),
        "todo": _shortened_digests(finding.todo),
    }


def _shortened_digests(text: str) -> str:
    return _DIGEST_IN_TEXT.sub(r"\1...", text)


def finding_states(found: Sequence[FindingRecord]) -> FindingStates:
    """The states of a row that follow from four of its findings. Without the finding a state is `unseen`."""
    by_name = {invariant_key(each["invariant"]): each["finding"] for each in found}

    def state(invariant: str, held: str, broken: str) -> str:
        return {"held": held, "broken": broken}.get(by_name.get(invariant, ""), "unseen")

    return {
        "attestation": state("attestation_verified", "verified", "rejected"),
        "runtimeState": state("runtime_zeroized", "zeroized", "terminated"),
        "rawCallback": state("raw_callback_completed", "completed", "lost"),
        "sameAllocation": {"held": True, "broken": False}.get(by_name.get("same_allocation", "")),
    }


def workload_facts(rounds: Sequence[RoundResult]) -> list[WorkloadFactsRecord]:
    """What each leg reported of what it trained: device, data order, parameters, stand-in."""
    return [
        {
            "round": each.number,
            "protected": None if each.protected is None else each.protected.facts,
            "raw": None if each.raw is None else each.raw.facts,
        }
        for each in rounds
    ]


def data_order_seeds(rounds: Sequence[RoundResult]) -> list[DataOrderSeeds]:
    """The seed of each leg's data order, by round: the legs take the same batches in different orders."""
    return [
        {"round": each.number, "protected": protected.order_seed, "raw": raw.order_seed}
        for each, (protected, raw) in zip(rounds, measured_legs(rounds), strict=True)
    ]


def turns(observation: Observation, rounds: Sequence[RoundResult]) -> TurnsRecord:
    """The segments of an interleaved row and the design they follow; `segments` is empty for other rows."""
    planned = design(observation)
    settled: SteadyRecord = {"steady": steady(rounds)} if planned else {}
    return {**planned, **settled, "segments": segments(rounds)}


def _as_run(outcome: Outcome, settings: RecordSettings) -> RowAsRun:
    row = outcome.row
    as_declared = _work(row) == _work(outcome.declared)
    base: BaseRecord = {"base": "sealed"} if row.sealed else {}
    gpus: GpusRecord = {"gpus": row.gpus} if row.gpus > 1 else {}
    if row.nodes > 1:
        gpus["nodes"] = row.nodes
    parameters: ParametersRecord = {"parameters": dict(row.parameters)} if row.parameters else {}
    return {
        "rowId": row.row_id,
        "name": row.name,
        "asDeclared": as_declared,
        "overridden": sorted(settings.overridden),
        "declared": None if as_declared else _work(outcome.declared),
        "namedGpuModel": row.gpu_model,
        "workload": row.workload,
        "modelId": row.model,
        **row.adapter,
        **base,
        **gpus,
        **_work(row),
        "fixedOrder": settings.fixed_order,
        "warmupSec": row.warmup_s,
        **parameters,
    }


def _allocation_fields(allocation: AllocationFacts) -> AllocationFields:
    return {
        "provider": allocation.provider,
        "providerInstanceId": allocation.provider_instance_id,
        "allocationName": allocation.name,
        "gpuModel": allocation.gpu_model,
        "gpuUuid": allocation.gpu_uuid,
    }


def _allocation_fields_if_any(allocation: AllocationFacts | None) -> OptionalAllocationFields:
    if allocation is None:
        return {"provider": None, "providerInstanceId": None, "allocationName": None, "gpuModel": None, "gpuUuid": None}
    return {**_allocation_fields(allocation)}


def _work(row: RowSpec) -> Work:
    """What `asDeclared` compares: order, rounds and target."""
    if row.target_s is None:
        return {"order": row.order, "rounds": row.rounds, "stepBudget": row.steps}
    return {"order": row.order, "rounds": row.rounds, "targetSec": row.target_s}


def _exclusion(
    outcome: Outcome, rounds: Sequence[RoundResult], found: Sequence[FindingRecord], settings: RecordSettings
) -> Exclusion | None:
    if outcome.ended is not None:
        ended = outcome.ended
        return {"outcome": ended.outcome, "reason": _shortened_digests(ended.reason), "decision": ended.decision}
    # What is broken comes first: what is unseen is often only its consequence.
    failed = sorted((each for each in found if not _passes(each, settings)), key=lambda each: each["finding"] != "broken")
    if failed:
        reason = "; ".join(f"{each['invariant']} {each['finding']}: {each['reason']}" for each in failed)
        return {"outcome": "failed", "reason": reason, "decision": _EXCLUDED}
    if not found:
        return {"outcome": "error", "reason": "no finding was judged", "decision": _EXCLUDED}
    planned = outcome.row.rounds if outcome.row.sealed else rounds_in_all(outcome.observation, rounds, planned=outcome.row.rounds)
    complete = len(rounds) == planned and all(_complete(each, rounds, outcome) for each in rounds)
    if not complete or outcome.allocation is None:
        reason = "not every leg of every round was measured" if not complete else "no allocation was observed"
        return {"outcome": "excluded", "reason": reason, "decision": _EXCLUDED}
    if disturbed := disturbances(outcome.observation):
        return {"outcome": "excluded", "reason": "; ".join(disturbed), "decision": _EXCLUDED}
    return None


def _complete(each: RoundResult, rounds: Sequence[RoundResult], outcome: Outcome) -> bool:
    """Whether every leg of one of a row's `rounds` was measured, and in an interleaved one every turn."""
    row = outcome.row
    if row.sealed:
        return each.protected is not None
    if row.order != "interleaved":
        return each.protected is not None and each.raw is not None
    planned = interleaving(row)
    measured = all(each.leg(role) is not None for role in planned.legs)
    pairs = pairs_of_round(outcome.observation, rounds, number=each.number, planned=planned.pairs) if planned.resident else 0
    return measured and len(each.pairs) == pairs


def _passes(found: FindingRecord, settings: RecordSettings) -> bool:
    return found["finding"] == "held" or _is_waived(found, settings)


def _is_waived(found: FindingRecord, settings: RecordSettings) -> bool:
    waived = {invariant_key(name) for name in settings.waived}
    return found["finding"] == "unseen" and invariant_key(found["invariant"]) in waived


def _waived(found: Sequence[FindingRecord], settings: RecordSettings) -> list[Waived]:
    reasons = {invariant_key(name): reason for name, reason in settings.waived.items()}
    return [
        {"invariant": each["invariant"], "reason": reasons[invariant_key(each["invariant"])]}
        for each in found
        if _is_waived(each, settings)
    ]
