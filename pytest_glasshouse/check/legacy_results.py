"""Results as they were published before there were reports: rates and percentages in JSON, without evidence.

This module knows two shapes: `validResults` with a rate per leg, and `rows` with rates or with units and seconds. It
computes again what two numbers of one row allow, and refuses to call anything in them shown that they only state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.overhead.interval import overhead_pct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Figures were published with two decimals of rates with three: half a unit of the last, and what rounding the rates does.
_TOLERANCE_PCT = 0.0051
_RATE_TOLERANCE = 0.001
#: Seconds to the millisecond leave no more open than this in a leg that was worth publishing.
_MOST_ALLOWED_PCT = 0.1
#: What is slower than this, or faster than its inverse, was no training.
_LEAST_RATE = 1e-9
_LISTS = ("validResults", "rows")
#: Fields that only a report has; an excerpt (`render --excerpt`) and the published files have the others of its document.
_OURS = frozenset(
    {
        "$schema", "schemaVersion", "runId", "createdAt", "generatedBy", "policySha256", "attestationRoot", "environment",
        "claims", "nullRows", "tamper", "cleanup", "attempts", "keys", "extra", "seal",
    }
)  # fmt: skip
_OURS_OF_A_ROW = frozenset({"rowId", "seal", "observation", "findings", "lifecycle", "roundFigures", "allocationName"})
_STATED = ("attestation", "runtimeState", "sameAllocation", "interpretation", "rawCallback")
NOT_VERIFIABLE = (
    "that the rates were measured: there are no journals, segments or signed exits",
    "attestation, zeroized, same allocation: they are stated, and no evidence of them is in the file",
    "that nothing was changed since: there is no seal, digest or signature",
    "any interval: every row is a single sample",
)


@dataclass(frozen=True, kw_only=True)
class PublishedFound:
    """Faults as (path, text); rows whose overhead was computed again; rows that state none; excluded rows."""

    faults: tuple[tuple[str, str], ...]
    recomputed: int
    without: int
    excluded: int
    stated: tuple[str, ...]


def is_published(document: Any) -> bool:
    """Whether this is one of the shapes this module knows: a list of rows, and no field that only a report has."""
    return may_be_results(document) and not _fields_of_a_report(document)


def may_be_results(document: Any) -> bool:
    """Whether this may be a report, a changed one, or results of the older shape, and is not simply something else."""
    if not isinstance(document, dict):
        return False
    return bool({"schemaVersion", "runId"} & document.keys()) or any(isinstance(document.get(name), list) for name in _LISTS)


def _fields_of_a_report(document: Mapping[str, Any]) -> Sequence[str]:
    found = _OURS & document.keys()
    for _, row in _rows(document):
        found |= _OURS_OF_A_ROW & row.keys()
    return sorted(found)


def check_published(document: Any) -> PublishedFound:
    """Compute every overhead again that two rates of its row give. Whoever has a report has no results of this shape."""
    faults: list[tuple[str, str]] = []
    if not may_be_results(document):
        faults.append(("$", "expected results of the older shape: a list `validResults` or `rows`"))
        document = {}
    if ours := _fields_of_a_report(document):
        faults.append(("$", f"expected results of the older shape, saw fields of a report ({', '.join(ours)}): not --published"))
    for name in _LISTS:
        rows = document.get(name, [])
        odd = [place for place, row in enumerate(rows) if not isinstance(row, dict)] if isinstance(rows, list) else []
        faults += [(f"$.{name}[{place}]", "expected an object") for place in odd[:10]]
    recomputed = without = 0
    stated: set[str] = set()
    for path, row in _rows(document):
        stated |= {name for name in _STATED if name in row}
        if "overheadPct" not in row:
            without += 1
            continue
        found = list(_row_faults(row))
        faults += [(f"{path}{below}", text) for below, text in found]
        recomputed += not found
    if not recomputed and not faults:
        faults.append(("$", "no row has an overhead and the rates it follows from: there is nothing to check"))
    lists = [document.get(name) for name in ("excludedResults", "excluded")]
    excluded = [each for told in lists if isinstance(told, list) for each in told]
    return PublishedFound(
        faults=tuple(faults), recomputed=recomputed, without=without, excluded=len(excluded), stated=tuple(sorted(stated))
    )


def _rows(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, value in document.items():
        if name in _LISTS and isinstance(value, list):
            yield from ((f"$.{name}[{place}]", row) for place, row in enumerate(value) if isinstance(row, dict))
        elif isinstance(value, dict) and "overheadPct" in value:
            yield f"$.{name}", value


def _row_faults(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    rates = {leg: _rate(row, leg) for leg in ("protected", "raw")}
    for leg, (stated, computed) in rates.items():
        if stated is not None and computed is not None and abs(stated - computed) > _RATE_TOLERANCE * abs(computed):
            yield f".{leg}Rate", f"units and seconds give {computed:.3f}"
    protected, raw = (computed if computed is not None else stated for stated, computed in rates.values())
    if not protected or not raw or not all(_LEAST_RATE < each < 1 / _LEAST_RATE for each in (protected, raw)):
        yield ".overheadPct", "the row has no two rates, nor units and seconds, to compute it from"
        return
    expected = overhead_pct(protected, raw)
    stated = row["overheadPct"]
    if not isinstance(stated, int | float) or isinstance(stated, bool) or abs(expected - stated) > _allowed(row):
        yield ".overheadPct", f"the rates give {expected:.2f}"


def _allowed(row: Mapping[str, Any]) -> float:
    """Elapsed seconds were published to the millisecond: of a leg of a few seconds that is more than the last decimal."""
    seconds = [row.get(f"{leg}{name}") for leg in ("protected", "raw") for name in ("ElapsedSec", "TrainElapsedSec")]
    known: list[float] = [each for each in seconds if _positive(each)]  # type: ignore[misc]
    return min(_MOST_ALLOWED_PCT, _TOLERANCE_PCT + (100 * 0.0005 * sum(1 / each for each in known)))


def _rate(row: Mapping[str, Any], leg: str) -> tuple[float | None, float | None]:
    """The rate that is stated and the one that units and seconds give; None where there is none."""
    stated = next(
        (
            row[name]
            for name in (f"{leg}Rate", f"{leg}EpochsPerSec", f"{leg}StepsPerSec", f"{leg}PerSec")
            if _positive(row.get(name))
        ),
        None,
    )
    units = row.get(f"{leg}Units", row.get("steps"))
    seconds = row.get(f"{leg}ElapsedSec", row.get(f"{leg}TrainElapsedSec"))
    computed = units / seconds if _positive(units) and _positive(seconds) else None
    return stated, computed


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
