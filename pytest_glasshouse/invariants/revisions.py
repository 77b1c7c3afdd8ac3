"""How each revision of the invariants judged. A report is judged for ever as it was when it was written.

A finding carries the digest of what was read for it, so an invariant that reads more gives another digest of the same run.
A change of what an invariant reads or decides, or a new invariant, adds a `Revision` here: the function as it was stays, by
its name, in `before`, and what did not exist yet in `added`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_glasshouse.invariants import allocation, lifecycle, work
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, judge_rounds, unseen, with_causes
from pytest_glasshouse.invariants.judging import ALL, applicable
from pytest_glasshouse.invariants.turns import in_turns
from pytest_glasshouse.invariants.witnessed import judge_witnessed
from pytest_glasshouse.wire import journal

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.observation.document import Observation

    Invariant = Callable[[Observation], Finding]


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One change of the invariants: the functions that judged until then, by name, and those added by it."""

    number: int
    before: Mapping[str, Callable[[Observation], Finding]] = field(default_factory=lambda: MappingProxyType({}))
    added: frozenset[str] = frozenset()


_TWO_LEGS = frozenset({"protected", "raw"})


def _same_allocation_1(observation: Observation) -> Finding:
    """Rounds of two legs, and no simulated provider."""
    judge = partial(allocation.same_guest, expected_legs=_TWO_LEGS, stand_in=lambda *_: False)
    return judge_rounds("same allocation", observation, judge)


def _same_work_1(observation: Observation) -> Finding:
    """Rounds of two legs; nothing about the page cache, or about the seeds of the data order."""

    def settings_1(reader: EvidenceReader) -> str:
        if set(reader.notes["order"] or _TWO_LEGS) != _TWO_LEGS:
            raise unseen("revision 1 of the invariants knows rounds of a protected and a raw leg")
        return work.same(reader, settings=work.settings_of_process)

    return work.judge_work(observation, settings_1)


def _journal_countersigned_2(observation: Observation) -> Finding:
    """A journal that replays, whatever its steps."""
    judge = partial(lifecycle.countersigned, read=_replayed)
    return judge_rounds("journal countersigned", observation, judge)


def _replayed(lines: Sequence[str], nonce: str, *, head: Mapping[str, int | str]) -> None:
    journal.replay(lines, nonce)
    journal.check_head(lines, nonce, head=head["head"], count=head["count"])


def _same_allocation_2(observation: Observation) -> Finding:
    """Nothing about the agent's key."""
    return judge_rounds("same allocation", observation, allocation.same_guest)


def _same_allocation_3(observation: Observation) -> Finding:
    """Nothing about the GPU that the legs say they trained on."""
    return judge_rounds("same allocation", observation, allocation.same_keys)


def _runtime_zeroized_3(observation: Observation) -> Finding:
    """No remainder of the GPU's memory was too small to tell whose it is."""
    return judge_rounds("runtime zeroized", observation, partial(lifecycle.zeroized, small_remainder=0))


def _memory_scanned_clean_3(observation: Observation) -> Finding:
    """Whether or not anybody looked for a sealed model's weights."""
    return judge_rounds("memory scanned clean", observation, partial(lifecycle.scanned, of_a_sealed_model=()))


def _legs_in_order_2(observation: Observation) -> Finding:
    """Two whole lifecycles, and no third."""
    return judge_rounds("legs in order, not overlapping", observation, _of_two)


def _of_two(reader: EvidenceReader) -> str:
    if "turns" not in reader.notes and len(reader.notes["order"]) > len(_TWO_LEGS):
        raise ValueError(f"expected two legs, saw {len(reader.of('order'))}")
    return _in_order_3(reader)


def _in_order_3(reader: EvidenceReader) -> str:
    return lifecycle.in_order(reader, turns=partial(in_turns, waited=lambda _reader, _role: 0))


def _legs_in_order_3(observation: Observation) -> Finding:
    """Nothing about how long a leg waited for a processor."""
    return judge_rounds("legs in order, not overlapping", observation, _in_order_3)


def _adapter_digests_distinct_3(observation: Observation) -> Finding:
    """Those of a round only."""
    return judge_rounds("adapter digests distinct", observation, work.distinct)


def _work_witnessed_5(observation: Observation) -> Finding:
    """Nothing about what a leg's steps were between prologue and epilogue."""
    return judge_witnessed(observation, steps=False)


#: Since this revision an implausible negative is judged before the null and is within no limit.
IMPLAUSIBLE_BEFORE_NULL = 3
#: Since this revision the plan says how a row's rounds are drawn and estimated (`analysis.sampling`), a null between processes
#: decides, and the printed figure is the mean that the interval is of.
SAMPLED = 5
#: Every revision after the first, in order. An entry is never removed.
REVISIONS: tuple[Revision, ...] = (
    # Legs that take turns, and simulated pods without a GPU: more is read, so digests differ.
    Revision(
        number=2,
        before=MappingProxyType({"same_allocation": _same_allocation_1, "same_work": _same_work_1}),
        added=frozenset({"paused_leg_idle"}),
    ),
    # A journal shows a whole lifecycle, an agent has one key, three whole lifecycles have an order, and claimed time passed on
    # other clocks. Beside the invariants: an implausible negative is judged before the null, and is within no limit.
    Revision(
        number=IMPLAUSIBLE_BEFORE_NULL,
        before=MappingProxyType(
            {
                "journal_countersigned": _journal_countersigned_2,
                "same_allocation": _same_allocation_2,
                "legs_in_order": _legs_in_order_2,
            }
        ),
        added=frozenset({"time_accounted_for"}),
    ),
    # Every claim of work and time has a second witness; the legs name the GPU they trained on, and a small remainder of the whole
    # GPU's memory is not seen to be the leg's. A scan of a leg with a sealed model has looked for its weights.
    Revision(
        number=4,
        before=MappingProxyType(
            {
                "adapter_digests_distinct": _adapter_digests_distinct_3,
                "same_allocation": _same_allocation_3,
                "runtime_zeroized": _runtime_zeroized_3,
                "memory_scanned_clean": _memory_scanned_clean_3,
                "legs_in_order": _legs_in_order_3,
            }
        ),
        added=frozenset({"work_witnessed"}),
    ),
    # No invariant changed: how rounds are chosen, drawn, estimated and judged did, and each row's plan names it.
    Revision(number=SAMPLED),
    # The prologue is repeated at drawn moments, batches are counted where they are used, and a GPU's clock is compared.
    Revision(number=6, before=MappingProxyType({"work_witnessed": _work_witnessed_5})),
)


def newest(revisions: Sequence[Revision] = REVISIONS) -> int:
    """The revision that judges now."""
    return revisions[-1].number if revisions else 1


def invariants_of(
    revision: int, *, revisions: Sequence[Revision] = REVISIONS, now: Sequence[Invariant] = ALL
) -> tuple[Invariant, ...]:
    """The invariants as they were in `revision`. Raises `ValueError` for one that this version does not know."""
    if not 1 <= revision <= newest(revisions):
        raise ValueError(f"revision {revision} of the invariants is not one of 1 to {newest(revisions)}")
    found = {_name(each): each for each in now}
    for step in reversed(revisions):
        if step.number <= revision:
            break
        found = {name: step.before.get(name, each) for name, each in found.items() if name not in step.added}
    return tuple(found.values())


def judge_as(observation: Observation, revision: int) -> tuple[Finding, ...]:
    """Every invariant that a revision judged such a row by, in the order of `ALL`."""
    now = invariants_of(revision, now=applicable(observation))
    return with_causes([invariant(observation) for invariant in now], observation)


def _name(invariant: Invariant) -> str:
    name = getattr(invariant, "__name__", "")
    return str(name)
