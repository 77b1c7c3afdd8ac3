"""Raw against raw between processes, pooled over the null rows and second raw legs of an allocation: the null that decides.

A row alone has none, so it is judged once more when the report is assembled, and `check` does the same with the report's rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from pytest_glasshouse.analysis.figures import judged_figures
from pytest_glasshouse.analysis.sampling import is_current, sampling_of
from pytest_glasshouse.overhead.null import Null, null_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_glasshouse.analysis.fields import MeasuredRow, NullRow, Record

_SECOND = "second raw leg"


def allocation_nulls(null_rows: Iterable[NullRow], rows: Iterable[MeasuredRow]) -> dict[str, Null]:
    """By allocation: one value for every round of raw against raw, whatever row it is of. None where there was none."""
    found: dict[str, list[float]] = {}
    for null in null_rows:
        found.setdefault(null["allocationName"], []).extend(null.get("roundLogRatios", ()))
    for row in rows:
        nulls = row["estimates"]["nulls"] if "estimates" in row else []
        ratios = [value for each in nulls if each["kind"] == _SECOND for value in each["roundLogRatios"]]
        found.setdefault(row["allocationName"], []).extend(ratios)
    return {name: null_of("between processes", values) for name, values in found.items() if values}


def judged_by_null(row: MeasuredRow, null: Null | None) -> MeasuredRow:
    """A measured row judged by its allocation's null, or without one; a row from before there was any stays as it is."""
    if not is_current(row["observation"]):
        return row
    own = row["limit"]
    judged = judged_figures(
        row,
        order=row["order"],
        margin_pct=row["marginPct"],
        fixed_order=row["fixedOrder"],
        max_overhead_pct=None if own is None else own["limitPct"],
        sampling=sampling_of(row),
        current=True,
        null=null,
    )
    kept = {name: value for name, value in row.items() if name not in {"nullQualifies", "allocationNull"}}
    changed: dict[str, object] = {**kept, **judged}
    if "attempts" in row:
        changed["attempts"] = [{**each, "verdict": judged["verdict"]} if each["stands"] else each for each in row["attempts"]]
    return cast("MeasuredRow", changed)


def judged_by_nulls(records: Sequence[Record]) -> list[Record]:
    """The records of a run, their measured rows judged by the nulls of their allocations."""
    nulls = allocation_nulls(
        [each["record"] for each in records if each["list"] == "nullRows"],
        [each["record"] for each in records if each["list"] == "rows"],
    )
    return [
        {"list": "rows", "record": judged_by_null(each["record"], nulls.get(each["record"]["allocationName"]))}
        if each["list"] == "rows"
        else each
        for each in records
    ]
