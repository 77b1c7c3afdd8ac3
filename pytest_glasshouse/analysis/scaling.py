"""How a row's legs scale over several GPUs: units per second and GPU, and the time that each rank spent in collectives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.analysis.figures import measured_legs, seconds
from pytest_glasshouse.observation.reading import (
    notes_of_node,
    notes_of_rank,
    observed_rounds,
    planned_gpus,
    planned_nodes,
    protected_of,
)
from pytest_glasshouse.observation.trained import Trained
from pytest_glasshouse.overhead.interval import rate
from pytest_glasshouse.wire import journal
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import ScalingRecord
    from pytest_glasshouse.observation.document import Observation, RoundNotes
    from pytest_glasshouse.observation.results import LegResult, RoundResult

    Compared = Literal["protected", "raw"]


def scaling(observation: Observation, rounds: Sequence[RoundResult]) -> ScalingRecord:
    """The member `scaling` of a measured row whose legs had several ranks; nothing for one GPU.

    Units are counted once over all ranks, so that a leg's rate over its GPUs is the rate of each. Times in collectives are sums
    over the timed stretches of all rounds, in the order of the ranks, and contain waiting for the slowest rank; on a GPU they
    are not observed, and are null. Raises what reading a journal raises.
    """
    gpus = planned_gpus(observation)
    if gpus == 1:
        return {}
    legs = measured_legs(rounds)
    return {
        "scaling": {
            "gpus": gpus,
            "protectedPerSecPerGpu": _rate([pair[0] for pair in legs]) / gpus,
            "rawPerSecPerGpu": _rate([pair[1] for pair in legs]) / gpus,
            "protectedCollectiveSec": _collective_s(observation, "protected", gpus),
            "rawCollectiveSec": _collective_s(observation, "raw", gpus),
        }
    }


def _rate(legs: Sequence[LegResult]) -> float:
    return rate(sum(leg.units for leg in legs), seconds(sum(leg.elapsed_ns for leg in legs)))


def _collective_s(observation: Observation, leg: Compared, gpus: int) -> list[float | None]:
    found: list[float | None] = []
    for rank in range(gpus):
        node, own = divmod(rank, gpus // planned_nodes(observation))
        parts = [notes_of_node(notes, node) for notes in observed_rounds(observation)]
        ends = [_end(notes_of_rank(part, own) if own else part, leg, own) for part in parts]
        seen = all(end["facts"]["device"] == "cpu" for end in ends)
        found.append(seconds(sum(end.get("collective_ns", 0) for end in ends)) if seen else None)
    return found


def _end(notes: RoundNotes, leg: Compared, rank: int) -> Trained:
    """What a rank reported when its training was over."""
    if leg == "raw":
        return check_typed((notes["raw"] or {}).get("callback"), Trained, f"rank {rank}: callback")
    own = protected_of(notes)
    entries = journal.replay(own.get("journal", []), journal.rank_session(own["challenge"]["nonce"], rank))
    body = next((entry.body for entry in entries if entry.type == "train_completed"), None)
    return check_typed(body, Trained, f"rank {rank}: train_completed")
