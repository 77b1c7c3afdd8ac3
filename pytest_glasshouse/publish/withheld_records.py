"""The report of a run in which some records cannot be published: each of those is replaced by a withheld row."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.publish.objections import MALFORMED, Objection, most_serious
from pytest_glasshouse.publish.redact_published import withheld_record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pytest_glasshouse.analysis.fields import Record
    from pytest_glasshouse.report.fields import Report

    Make = Callable[[Sequence[Record]], Report]
    FindObjections = Callable[[Report], list[Objection]]

#: An objection may be found only when the records with others are withheld.
_PASSES = 6
#: How often a record is withheld under its own name: once with the objection's text, once without.
_NAMED = 2


@dataclass(frozen=True, kw_only=True)
class PublishableReport:
    """`records` are those given, in their order, each unpublishable one replaced; `document` is assembled from them.

    `withheld` has the objections to each replaced record, by its place. `whole` is the first document that could be assembled,
    with everything that may not be published. `blocked` are objections to the run itself: nothing may be published then.
    """

    document: Report
    whole: Report
    records: tuple[Record, ...]
    withheld: Mapping[int, tuple[Objection, ...]]
    blocked: tuple[Objection, ...]


def withhold_records(records: Sequence[Record], *, make: Make, find: FindObjections) -> PublishableReport:
    """Replace every unpublishable record. `make` assembles records into a document, and may raise; `find` returns objections."""
    standing = list(records)
    withheld: dict[int, list[Objection]] = {}
    whole: Report | None = None
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
            found = find(document)
            places = _places(standing)
            blocked = [each for each in found if each.record not in places]
            if not found or blocked:
                reasons = {place: tuple(against) for place, against in withheld.items()}
                return PublishableReport(
                    document=document, whole=whole, records=tuple(standing), withheld=reasons, blocked=tuple(blocked)
                )
        places = _places(standing)
        for each in found:
            withheld.setdefault(places[each.record], []).append(each)  # type: ignore[index]  # blocked where it is None
        for place in {places[each.record] for each in found}:  # type: ignore[index]
            tried[place] += 1
            first = most_serious(withheld[place]) if tried[place] == 1 else most_serious(withheld[place]).without_details
            number = place + 1 if tried[place] > _NAMED else None
            standing[place] = withheld_record(records[place], first, number=number)
    raise ReportError("the report does not validate, even with rows withheld; the run directory has the records")


def _places(records: Sequence[Record]) -> dict[tuple[str, int], int]:
    """The place of each record among all, by its list and its place there."""
    seen: Counter[str] = Counter()
    found: dict[tuple[str, int], int] = {}
    for place, each in enumerate(records):
        found[each["list"], seen[each["list"]]] = place
        seen[each["list"]] += 1
    return found


def _unassemblable(records: Sequence[Record], make: Make) -> list[Objection]:
    """Objections to the records that cannot be assembled alone."""
    found = []
    for (name, place), index in _places(records).items():
        try:
            make([records[index]])
        except MALFORMED as error:
            found.append(Objection(path=f"$.{name}[{place}]", text=f"not to be read: {type(error).__name__}: {error}"))
    return found
