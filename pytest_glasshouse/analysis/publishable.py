"""Why a row may not be published: what its run, its allocation and its findings say against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.observation.reading import stand_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_glasshouse.analysis.fields import FindingRecord
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.outcome import Outcome
    from pytest_glasshouse.rows.spec import RowSpec


def unpublishable_because(outcome: Outcome, found: Sequence[FindingRecord], own: Iterable[str]) -> list[str]:
    """Why this row may not be published; empty when it may. `own` are the run's own reasons."""
    row, allocation = outcome.row, outcome.allocation
    reasons = list(own)
    if allocation is None or allocation.dry_run:
        reasons.append("dry run")
    if allocation is not None and allocation.simulated:
        reasons.append("simulated provider")
    if row.gpu_model is not None and allocation is not None and allocation.gpu_model != row.gpu_model:
        reasons.append("not the GPU the row names")
    if _reference_source(outcome.observation) == "checkout":
        reasons.append("reference values from a checkout")
    if _shortened(row, outcome.declared):
        reasons.append("shortened target")
    if stand_in(outcome.observation):
        reasons.append("stand-in model")
    reasons += [f"{each['invariant']} is {each['finding']}" for each in found if each["finding"] != "held"]
    return unique(reasons)


def _reference_source(observation: Observation) -> str | None:
    return observation["allocation"].get("referenceSource") if "allocation" in observation else None


def _shortened(row: RowSpec, declared: RowSpec) -> bool:
    """Less of the declared target, or a target of another kind, which cannot be compared and so is not trusted."""
    if row.target_s is not None and declared.target_s is not None:
        return row.target_s < declared.target_s or row.warmup_s < declared.warmup_s
    if row.steps is not None and declared.steps is not None:
        return row.steps < declared.steps or row.warmup_s < declared.warmup_s
    return True


def unique(reasons: Iterable[str]) -> list[str]:
    """Each reason once, in their order."""
    return list(dict.fromkeys(reasons))
