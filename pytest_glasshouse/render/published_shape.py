"""A report's rows in the shape of the earlier published results: `validResults`, `excludedResults`, and no evidence.

It names the report it was taken from by its digest: everything beyond arithmetic is checked on that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.wire.canonical import sha256_hex
from pytest_glasshouse.wire.printable import json_text

if TYPE_CHECKING:
    from pytest_glasshouse.analysis.fields import ExcludedRow, MeasuredRow
    from pytest_glasshouse.report.fields import Report

_RATE_DIGITS, _PERCENT_DIGITS = 3, 2


def excerpt(document: Report) -> str:
    """The excerpt as JSON text. Rates have three decimals and percentages two, as published."""
    subject = document["subject"]
    published = {
        "title": f"Glasshouse report {document['runId']}",
        "date": document["createdAt"][:10],
        "methodology": {
            "sameInstance": all(row["sameAllocation"] is True for row in document["rows"]),
            "formula": document["methodology"]["formula"],
            "interval": document["methodology"]["interval"],
        },
        "validResults": [_row(row) for row in document["rows"]],
        "excludedResults": [_excluded(row) for row in document["excludedResults"]],
        "summary": {
            "measured": document["summary"]["measured"],
            "selected": document["summary"]["selected"],
            "dryRun": document["summary"]["dryRun"],
            "publishable": document["summary"]["publishable"],
            "cleanup": document["cleanup"]["status"],
            "lifecycle": document["summary"]["lifecycle"],
        },
        "subject": {name: subject.get(name) for name in ("name", "version", "gitCommit", "wheelSha256")},
        "reportSha256": sha256_hex(report_bytes(document)),
    }
    return json_text(published) + "\n"


def _row(row: MeasuredRow) -> dict[str, object]:
    unit = row["unit"].capitalize()
    interval = row["overheadCi95Pct"]
    return {
        "name": row["name"],
        **_target(row),
        "rounds": row["rounds"],
        f"protected{unit}PerSec": round(row["protectedPerSec"], _RATE_DIGITS),
        f"raw{unit}PerSec": round(row["rawPerSec"], _RATE_DIGITS),
        "protectedUnits": row["protectedUnits"],
        "rawUnits": row["rawUnits"],
        "protectedElapsedSec": row["protectedElapsedSec"],
        "rawElapsedSec": row["rawElapsedSec"],
        "overheadPct": round(row["overheadPct"], _PERCENT_DIGITS),
        "overheadCi95Pct": None if interval is None else [round(value, _PERCENT_DIGITS) for value in interval],
        "verdict": row["verdict"],
        "attestation": row["attestation"],
        "runtimeState": row["runtimeState"],
        "sameAllocation": row["sameAllocation"],
        "dryRun": row["dryRun"],
        "publishable": row["publishable"],
        "interpretation": row["interpretation"],
    }


def _excluded(row: ExcludedRow) -> dict[str, object]:
    return {"name": row["name"], **_target(row), "outcome": row["outcome"], "reason": row["reason"], "decision": row["decision"]}


def _target(row: MeasuredRow | ExcludedRow) -> dict[str, object]:
    length: dict[str, object] = {"durationSec": row["targetSec"]} if "targetSec" in row else {"stepBudget": row["stepBudget"]}
    model = {"modelId": row["modelId"]} if row["modelId"] is not None else {}
    where = {name: row.get(name) for name in ("provider", "gpuModel", "workload")}
    return {**where, **model, "order": row["order"], **length}
