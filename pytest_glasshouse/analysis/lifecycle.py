"""How many protected lifecycles a row began, and in how many of them everything held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.observation.reading import invariant_key, observed_rounds, protected_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import LifecycleCount
    from pytest_glasshouse.invariants import Finding
    from pytest_glasshouse.observation.document import Observation


#: The invariants of one protected lifecycle, apart from the raw leg and the comparison.
LIFECYCLE_INVARIANTS = (
    "attestation verified",
    "key released only after attestation",
    "weights loaded from the package",
    "runtime zeroized",
    "memory scanned clean",
    "journal countersigned",
)


def lifecycle(
    observation: Observation,
    *,
    waived: Mapping[str, str],
    judge: Callable[[Observation], Sequence[Finding]] | None = None,
) -> LifecycleCount:
    """How many protected lifecycles this row began, and in how many of them all `LIFECYCLE_INVARIANTS` held."""
    # Lifecycles of a first attempt that did not fit on the device were begun too.
    everything = [*observed_rounds(observation), *observation.get("didNotFit", [])]
    begun = [observed for observed in everything if protected_of(observed)]
    if not begun:
        return {"attempted": 0, "held": 0}
    if judge is None:
        from pytest_glasshouse import invariants

        judge = invariants.judge
    not_required = {invariant_key(name) for name in waived}
    held = 0
    for observed in begun:
        findings = {each.invariant: each.finding for each in judge({**observation, "rounds": [observed]})}
        held += all(
            findings.get(name) == "held" or (findings.get(name) == "unseen" and invariant_key(name) in not_required)
            for name in LIFECYCLE_INVARIANTS
        )
    return {"attempted": len(begun), "held": held}
