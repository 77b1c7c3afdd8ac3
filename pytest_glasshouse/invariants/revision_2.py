"""Three invariants as revision 2 judged them: a journal, whatever its steps; a guest, whatever its keys; two legs, and no third.

Kept so that a report of that time is judged as it was then.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.invariants import lifecycle, place
from pytest_glasshouse.invariants.finding import EvidenceReader, Finding, judge_rounds
from pytest_glasshouse.wire import journal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_glasshouse.invariants.finding import Observation


def journal_countersigned(observation: Observation) -> Finding:
    """The journal replays, its head is the leg's, and the server countersigned that head with the agent's exit."""
    return judge_rounds("journal countersigned", observation, partial(lifecycle.countersigned, read=_replayed))


def same_allocation(observation: Observation) -> Finding:
    """Provider's listing, GPU, boot and agent are the same before every leg of the row."""
    return judge_rounds("same allocation", observation, place.same_guest)


def legs_in_order(observation: Observation) -> Finding:
    """The second leg started after the first one's process was gone, and raw after zeroized; or they took turns."""
    return judge_rounds("legs in order, not overlapping", observation, _of_two)


def _of_two(reader: EvidenceReader) -> str:
    if "turns" not in reader.notes and len(reader.notes.get("order") or ()) > 2:  # noqa: PLR2004
        raise ValueError(f"expected two legs, saw {len(reader.of('order'))}")
    return lifecycle.in_order(reader)


def _replayed(lines: Sequence[str], nonce: str, *, head: Mapping[str, Any]) -> None:
    journal.replay(lines, nonce)
    journal.check_head(lines, nonce, head=head["head"], count=head["count"])
