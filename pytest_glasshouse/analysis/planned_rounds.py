"""How many rounds a row has in all, and how many pairs each, from its plan and what it measured so far.

A row has the rounds of its plan, those its time was cut into by the cost of its first one, those up to the look at which it was
decided, or those it was extended to. Plugin and runner decide by this module, and `check` decides again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.analysis.extension import extension
from pytest_glasshouse.analysis.looks import looks_of
from pytest_glasshouse.analysis.row_cut import cut_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow, NullRow, SealedRow
    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.observation.results import RoundResult


def rounds_in_all(observation: Observation, rounds: Sequence[RoundResult], *, planned: int) -> int:
    """How many rounds the row is to have, by what is known after `rounds`; the `planned` ones where nothing changes that."""
    if (looks := looks_of(observation, rounds)) is not None:
        return looks.rounds_in_all
    if (extended := extension(observation, rounds)) is not None:
        return extended.rounds
    divided = cut_of(observation, rounds)
    return planned if divided is None else divided.rounds


def pairs_of_round(observation: Observation, rounds: Sequence[RoundResult], *, number: int, planned: int) -> int:
    """The pairs of round `number`: the `planned` ones, or in a later round those that the row's time was cut into."""
    divided = None if number == 1 else cut_of(observation, rounds)
    return planned if divided is None else divided.pairs


def rounds_of(record: MeasuredRow | NullRow | SealedRow) -> int:
    """How many rounds a measured record says that it has in all."""
    if "protectedRounds" in record:
        return record["rounds"]
    if "sequential" in record:
        return record["sequential"]["rounds"]
    if "extension" in record:
        return record["extension"]["rounds"]
    return record["cut"]["rounds"] if "cut" in record else record["rounds"]
