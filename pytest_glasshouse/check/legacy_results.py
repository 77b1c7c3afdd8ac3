"""Results in the formats from before there were reports: rates and percentages in JSON, without evidence.

There are two formats: `validResults` with a rate per leg, and `rows` with rates or with units and seconds. Overheads are computed
again where a row has the numbers; everything else is reported as stated only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from pytest_glasshouse.overhead.interval import overhead_pct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.wire.canonical import Json

#: Figures have two decimals and rates three: half a unit of the last place, and the error from rounding the rates.
_TOLERANCE_PCT = 0.0051
_RATE_TOLERANCE = 0.001
#: The largest error that seconds rounded to the millisecond may explain.
_MOST_ALLOWED_PCT = 0.1
#: A rate below this, or above its inverse, is not a rate of training.
_LEAST_RATE = 1e-9
_LISTS = ("validResults", "rows")
#: Fields that only a report has; an excerpt (`render --excerpt`) and legacy files share the others.
_REPORT_FIELDS = frozenset(
    {
        "$schema", "schemaVersion", "runId", "createdAt", "generatedBy", "policySha256", "attestationRoot", "environment",
        "claims", "nullRows", "tamper", "cleanup", "attempts", "keys", "extra", "seal",
    }
)  # fmt: skip
_REPORT_ROW_FIELDS = frozenset({"rowId", "seal", "observation", "findings", "lifecycle", "roundFigures", "allocationName"})
_STATED = ("attestation", "runtimeState", "sameAllocation", "interpretation", "rawCallback")
NOT_VERIFIABLE = (
    "that the rates were measured: there are no journals, segments or signed exits",
    "attestation, zeroized, same allocation: they are stated, and no evidence of them is in the file",
    "that nothing was changed since: there is no seal, digest or signature",
    "any interval: every row is a single sample",
)


@dataclass(frozen=True, kw_only=True)
class LegacyChecked:
    """Faults as (path, text), and the numbers of rows recomputed, without an overhead, and excluded."""

    faults: tuple[tuple[str, str], ...]
    recomputed: int
    without: int
    excluded: int
    stated: tuple[str, ...]


def is_legacy(document: Json) -> bool:
    """Whether this has a legacy format: a list of rows, and no field that only a report has."""
    return may_be_report(document) and not _report_fields(document)


def may_be_report(document: Json) -> TypeGuard[dict[str, Json]]:
    """Whether this may be a report, an altered report or legacy results, and not some other JSON."""
    if not isinstance(document, dict):
        return False
    return bool({"schemaVersion", "runId"} & document.keys()) or any(isinstance(document.get(name), list) for name in _LISTS)


def _report_fields(document: Mapping[str, Json]) -> Sequence[str]:
    found = _REPORT_FIELDS & document.keys()
    for _, row in _rows(document):
        found |= _REPORT_ROW_FIELDS & row.keys()
    return sorted(found)


def check_legacy(document: Json) -> LegacyChecked:
    """Compute every overhead again from the rates of its row. A field that only a report has is a fault."""
    faults: list[tuple[str, str]] = []
    if not may_be_report(document):
        faults.append(("$", "expected results of the older shape: a list `validResults` or `rows`"))
        document = {}
    if fields := _report_fields(document):
        faults.append(
            (
                "$",
                f"expected results of the older shape, saw fields of a report ({', '.join(fields)}): omit --published",
            )
        )
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
    excluded = [row for rows in lists if isinstance(rows, list) for row in rows]
    return LegacyChecked(
        faults=tuple(faults), recomputed=recomputed, without=without, excluded=len(excluded), stated=tuple(sorted(stated))
    )


def _rows(document: Mapping[str, Json]) -> Iterator[tuple[str, dict[str, Json]]]:
    for name, value in document.items():
        if name in _LISTS and isinstance(value, list):
            yield from ((f"$.{name}[{place}]", row) for place, row in enumerate(value) if isinstance(row, dict))
        elif isinstance(value, dict) and "overheadPct" in value:
            yield f"$.{name}", value


def _row_faults(row: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    rates = {leg: _rate(row, leg) for leg in ("protected", "raw")}
    for leg, (stated, computed) in rates.items():
        if stated is not None and computed is not None and abs(stated - computed) > _RATE_TOLERANCE * abs(computed):
            yield f".{leg}Rate", f"units and seconds give {computed:.3f}"
    protected, raw = (computed if computed is not None else stated for stated, computed in rates.values())
    if not protected or not raw or not all(_LEAST_RATE < each < 1 / _LEAST_RATE for each in (protected, raw)):
        yield ".overheadPct", "the row has no two rates, nor units and seconds, to compute it from"
        return
    expected = overhead_pct(protected, raw)
    told = row["overheadPct"]
    if not isinstance(told, int | float) or isinstance(told, bool) or abs(expected - told) > _allowed(row):
        yield ".overheadPct", f"the rates give {expected:.2f}"


def _allowed(row: Mapping[str, Json]) -> float:
    """The tolerance: seconds are rounded to the millisecond, which matters for a leg of a few seconds."""
    seconds = [row.get(f"{leg}{name}") for leg in ("protected", "raw") for name in ("ElapsedSec", "TrainElapsedSec")]
    known = [each for each in seconds if _positive(each)]
    return min(_MOST_ALLOWED_PCT, _TOLERANCE_PCT + (100 * 0.0005 * sum(1 / each for each in known)))


def _rate(row: Mapping[str, Json], leg: str) -> tuple[float | None, float | None]:
    """The stated rate, and the one that units and seconds give; None where there is none."""
    names = (f"{leg}Rate", f"{leg}EpochsPerSec", f"{leg}StepsPerSec", f"{leg}PerSec")
    stated = next((rate for name in names if _positive(rate := row.get(name))), None)
    units = row.get(f"{leg}Units", row.get("steps"))
    seconds = row.get(f"{leg}ElapsedSec", row.get(f"{leg}TrainElapsedSec"))
    computed = units / seconds if _positive(units) and _positive(seconds) else None
    return stated, computed


def _positive(value: Json) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0
