"""The report of a run in which some records cannot be published: the others, and in place of those that they were withheld."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.publish.objections import MALFORMED, Objection, most_serious
from pytest_glasshouse.publish.redact_published import withheld_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.analysis.record import Record

    Make = Callable[[Sequence[Record]], dict[str, Any]]
    FindObjections = Callable[[Mapping[str, Any]], list[Objection]]

#: A record is withheld in the first pass. What it was withheld for may show itself only when others are gone.
_PASSES = 6
#: So often a withheld row keeps its name: once with what stood against it in words, once without.
_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class PublishableReport:
    """`records` are those given, in their order, each that could not be published replaced; `document` is made of them.

    `withheld` says what stood against each that was, by its place. `whole` is the first document that could be made: with
    everything in it that may not be published. `blocked` is what stands against the run itself; then nothing may be published.
    """

    document: dict[str, Any]
    whole: dict[str, Any]
    records: tuple[Record, ...]
    withheld: Mapping[int, tuple[Objection, ...]]
    blocked: tuple[Objection, ...]


def withhold_records(records: Sequence[Record], *, make: Make, ask: FindObjections) -> PublishableReport:
    """Withhold what has to be. `make` assembles records into a document, and may raise; `ask` says what stands against one."""
    standing = list(records)
    withheld: dict[int, list[Objection]] = {}
    whole: dict[str, Any] | None = None
    tried: Counter[int] = Counter()
    for _ in range(_PASSES):
        try:
            document = make(standing)
        except MALFORMED as error:
            found = _unassemblable(standing, make)
            if not found:
                raise
            del error
        else:
            whole = whole or document
            found = ask(document)
            places = _places(standing)
            blocked = [each for each in found if each.record not in places]
            if not found or blocked:
                told = {place: tuple(against) for place, against in withheld.items()}
                return PublishableReport(
                    document=document, whole=whole, records=tuple(standing), withheld=told, blocked=tuple(blocked)
                )
        places = _places(standing)
        for each in found:
            withheld.setdefault(places[each.record], []).append(each)  # type: ignore[index]  # blocked where it is None
        for place in {places[each.record] for each in found}:  # type: ignore[index]
            tried[place] += 1
            first = most_serious(withheld[place]) if tried[place] == 1 else most_serious(withheld[place]).silent
            number = place + 1 if tried[place] > _NAMED else None
            standing[place] = withheld_record(records[place], first, number=number)
    raise ReportError("the report does not validate: what stands against its rows cannot be taken out")


def _places(records: Sequence[Record]) -> dict[tuple[str, int], int]:
    """From a record's list and place there to its place among all."""
    seen: Counter[str] = Counter()
    found = {}
    for place, each in enumerate(records):
        found[each["list"], seen[each["list"]]] = place
        seen[each["list"]] += 1
    return found


def _unassemblable(records: Sequence[Record], make: Make) -> list[Objection]:
    """The records that no document can be made of."""
    found = []
    for (name, place), index in _places(records).items():
        try:
            make([records[index]])
        except MALFORMED as error:
            found.append(Objection(path=f"$.{name}[{place}]", text=f"not to be read: {type(error).__name__}: {error}"))
    return found
