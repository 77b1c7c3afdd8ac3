"""The objections to publishing a document, by path: what `check` would call faulty, and what must not be published.

Nothing is changed here; `redact_published` does that.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from pytest_glasshouse.check.check import document_faults
from pytest_glasshouse.check.recompute import Derivation
from pytest_glasshouse.errors import GlasshouseError, IntegrityError
from pytest_glasshouse.report.bundle import REPORT_LIMIT, parse_report, report_bytes
from pytest_glasshouse.report.fields import LISTS
from pytest_glasshouse.report.redaction import hits
from pytest_glasshouse.report.schema import schema_faults
from pytest_glasshouse.wire.canonical import VALUE_LIMIT, canonical, parse_strict, values_in
from pytest_glasshouse.wire.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#: A document or row that may break the schema: nothing is known of its members.
Unchecked: TypeAlias = dict[str, Any]

#: What assembling a document from rows that nothing has checked may raise: members are missing or of another type.
MALFORMED = (GlasshouseError, LookupError, TypeError, ValueError, AttributeError)
_RECORD_PATH = re.compile(r"\$\.(rows|sealedRows|excludedResults|nullRows)\[(\d+)\]")
_PLAIN_PATH = re.compile(r"\$(?:\.[A-Za-z0-9_]{1,40}(?![^.\[:])|\[\d+\])*")
#: Most objections of one kind.
_MOST = 1000


@dataclass(frozen=True, kw_only=True)
class Objection:
    """One objection. `rule` is the redaction rule that was hit; None for any other fault."""

    path: str
    text: str
    rule: str | None = None

    def __str__(self) -> str:
        return f"{printable(self.path, limit=160)} ({printable(self.text, limit=120)})"

    @property
    def record(self) -> tuple[str, int] | None:
        """The list and place of the row it is in; None where it is in no row."""
        found = _RECORD_PATH.match(self.path)
        return None if found is None else (found[1], int(found[2]))

    @property
    def without_details(self) -> Objection:
        """The same without path and text, for where those may not be published either."""
        record = self.record
        path = "$" if record is None else f"$.{record[0]}[{record[1]}]"
        return Objection(path=path, text="the run directory says more", rule=self.rule)

    @property
    def path_in_record(self) -> str:
        """The path below the row."""
        found = _RECORD_PATH.match(self.path)
        return self.path if found is None else self.path[found.end() :]


_NOT_JSON = Objection(path="$", text="not strict JSON")


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What prevents a document from being published, and its bytes, where it has any."""

    objections: list[Objection]
    data: bytes = b""


def objections(document: Mapping[str, object], *, taint: Iterable[str], derivation: Derivation | None) -> list[Objection]:
    """Everything that prevents this document from being published; empty where nothing does."""
    return examined(document, taint=taint, derivation=derivation).objections


def examined(document: Mapping[str, object], *, taint: Iterable[str], derivation: Derivation | None) -> Examined:
    """The bytes of a document, and the objections to them.

    First its form, then schema and redaction, then everything else that `check` covers: each relies on the ones before.
    """
    data = b""
    try:
        data = report_bytes(document)
        written: Any = parse_report(data)
    except IntegrityError as error:
        found = list(_too_large(document, data) if error.reason == "too-large" else _not_strict_json(document))
        return Examined(objections=found or [_NOT_JSON])
    except (ValueError, TypeError, RecursionError):
        return Examined(objections=list(_not_strict_json(document)) or [_NOT_JSON])
    # Something may have become another thing on the way, as a tuple becomes a list, or a number that is a key a text.
    if written != document and (found := list(_not_strict_json(document))):
        return Examined(objections=found)
    found = [Objection(path=path, text="does not follow the schema") for path in _schema_paths(written)]
    found += [Objection(path=hit.path, text=f"rule {hit.rule}", rule=hit.rule) for hit in hits(written, taint=taint)][:_MOST]
    return Examined(objections=found or list(islice(_faults(written, derivation or Derivation()), _MOST)), data=data)


def _faults(document: Any, derivation: Derivation) -> Iterator[Objection]:
    malformed = [Objection(path=path, text=text) for path, text in derivation.malformed(document)]
    yield from malformed
    if not malformed:
        yield from (Objection(path=fault.path, text=fault.text) for fault in document_faults(document, derivation))


def most_serious(against: Iterable[Objection]) -> Objection:
    """The objection to report of several: a redaction rule that was hit, else the first."""
    return min(against, key=lambda each: each.rule is None)


def listed(found: Iterable[Objection]) -> str:
    """The first few as text."""
    every = list(dict.fromkeys(map(str, found)))
    return "; ".join(every[:_SHOWN]) + (f"; and {len(every) - _SHOWN} more" if len(every) > _SHOWN else "")


_SHOWN = 5


def _schema_paths(document: Mapping[str, object]) -> list[str]:
    return list(dict.fromkeys(_place(each) for each in schema_faults(document, finite=True)))[:_MOST]


def _place(fault: str) -> str:
    """The path of a schema fault, up to the first name that may be arbitrary text: the path is published with its row."""
    found = _PLAIN_PATH.match(fault)
    return "$" if found is None else found[0]


def _not_strict_json(document: Mapping[str, object]) -> Iterator[Objection]:
    """The parts that have no canonical form or are no strict JSON."""
    rest = {name: [] if name in LISTS else value for name, value in document.items()}
    for path, part in [("$", rest), *((f"$.{name}[{place}]", {name: [each]}) for name, place, each in _records(document))]:
        try:
            canonical(part)
            parse_strict(json.dumps(part, allow_nan=False), limit=REPORT_LIMIT, floats=True)
        except IntegrityError as error:
            yield Objection(path=path, text=f"not strict JSON: {error}")
        except (ValueError, TypeError, RecursionError) as error:
            yield Objection(path=path, text=f"not strict JSON: {type(error).__name__}")


def _too_large(document: Mapping[str, object], data: bytes) -> Iterator[Objection]:
    """The largest rows of a report above the reader's limits, until the others fit."""
    for limit, measure in ((REPORT_LIMIT, len), (VALUE_LIMIT, values_in)):
        if (over := measure(data) - limit) <= 0:
            continue
        sizes = {f"$.{name}[{place}]": measure(report_bytes({name: [each]})) for name, place, each in _records(document)}
        for path in sorted(sizes, key=lambda path: -sizes[path]):
            if over > 0:
                yield Objection(path=path, text="so large that the report could not be read with it")
            over -= sizes[path]
        if over > 0:
            yield Objection(path="$", text="too large to be read")
        return


def _records(document: Mapping[str, object]) -> Iterator[tuple[str, int, object]]:
    for name in LISTS:
        records = document.get(name)
        yield from ((name, place, each) for place, each in enumerate(records if isinstance(records, list) else ()))
