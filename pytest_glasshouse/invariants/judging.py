"""All invariants together: judging a row, and failing a test with one table when something did not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.errors import InvariantBroken
from pytest_glasshouse.invariants.accounted import time_accounted_for
from pytest_glasshouse.invariants.allocation import raw_callback_completed, same_allocation
from pytest_glasshouse.invariants.finding import FOLLOWS, with_causes
from pytest_glasshouse.invariants.lifecycle import (
    journal_countersigned,
    legs_in_order,
    memory_scanned_clean,
    runtime_zeroized,
)
from pytest_glasshouse.invariants.trust import attestation_verified, key_released_after_attestation, weights_from_package
from pytest_glasshouse.invariants.turns import interleaved, is_null, paused_leg_idle
from pytest_glasshouse.invariants.witnessed import work_witnessed
from pytest_glasshouse.invariants.work import adapter_digests_distinct, adapters_trained, losses_finite, same_work
from pytest_glasshouse.observation.reading import is_sealed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pytest_glasshouse.invariants.finding import Finding
    from pytest_glasshouse.observation.document import Observation

    Invariant = Callable[[Observation], Finding]

#: Every invariant of a row, in the order of the lifecycle.
ALL: tuple[Invariant, ...] = (
    attestation_verified,
    key_released_after_attestation,
    weights_from_package,
    runtime_zeroized,
    memory_scanned_clean,
    journal_countersigned,
    raw_callback_completed,
    legs_in_order,
    time_accounted_for,
    adapter_digests_distinct,
    adapters_trained,
    losses_finite,
    same_allocation,
    same_work,
    paused_leg_idle,
    work_witnessed,
)

#: What compares a protected leg with a raw one, or is about a raw one.
_OF_TWO_LEGS: tuple[Invariant, ...] = (
    raw_callback_completed,
    legs_in_order,
    adapter_digests_distinct,
    same_work,
    paused_leg_idle,
)

#: The invariants of a row whose base is sealed: no leg follows the protected one, or is compared with it.
SEALED: tuple[Invariant, ...] = tuple(each for each in ALL if each not in _OF_TWO_LEGS)

#: The invariants of a null row.
NULL: tuple[Invariant, ...] = (
    raw_callback_completed,
    legs_in_order,
    time_accounted_for,
    adapter_digests_distinct,
    adapters_trained,
    losses_finite,
    same_allocation,
    same_work,
    work_witnessed,
)


class CarriedOut(Protocol):
    """A row that was carried out; `observation.outcome.Outcome` is one."""

    @property
    def observation(self) -> Observation:
        """What was seen."""
        ...


def judge(observation: Observation) -> tuple[Finding, ...]:
    """Every invariant judged from one observation, in the order of `ALL`.

    `paused leg idle` is one of interleaved rounds only: where no leg is ever paused it would hold by definition. A null
    row has no protected leg, and is judged by those of `NULL`; one whose base is sealed has no raw leg: `SEALED`.
    """
    return with_causes([invariant(observation) for invariant in applicable(observation)], observation)


def applicable(observation: Observation) -> tuple[Invariant, ...]:
    """The invariants that apply to a row of this kind."""
    if is_null(observation):
        return NULL
    if is_sealed(observation):
        return SEALED
    return ALL if interleaved(observation) else tuple(each for each in ALL if each is not paused_leg_idle)


def assert_held(outcome: CarriedOut, *invariants: Invariant) -> None:
    """Judge every invariant of the row's kind; raise `InvariantBroken` once, with a table, unless every one of them held.

    With invariants named, only those are judged. A row of which nothing was observed did not hold.
    """
    findings = with_causes(
        [invariant(outcome.observation) for invariant in invariants or applicable(outcome.observation)], outcome.observation
    )
    failed = [finding for finding in findings if finding.finding != "held"]
    if failed:
        ended = getattr(outcome, "ended", None)
        head = f"{len(failed)} of the {len(findings)} invariants this test asserts did not hold"
        if ended is not None:
            head += f"; the row ended early: {ended.reason} ({ended.decision})"
        raise InvariantBroken("\n".join((head, *table(failed))))


def table(findings: Iterable[Finding]) -> list[str]:
    """One block per finding: what was expected, what was seen, what to do; one line for what only follows from another."""
    lines = []
    for finding in findings:
        if finding.todo.startswith(FOLLOWS):
            lines.append(f"  {finding.finding.upper():6}  {finding.invariant}: {finding.reason} ({finding.todo})")
            continue
        lines.append(f"  {finding.finding.upper():6}  {finding.invariant}: {finding.reason}")
        for label, text in (("expected", finding.expected), ("seen", finding.seen), ("to do", finding.todo)):
            if text:
                lines.append(f"          {label:8}  {text}")
    return lines
