"""A report of the example run, and one change of it at a time with the fault that it makes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.wire.tokens import public_text
from tests.unit.report import example

DOCUMENT = example.document(example.measured(rounds=2), example.excluded(), example.lost())


def text_of(*names: str) -> frozenset[str]:
    return frozenset(public_text(getattr(example.KEYS, name).public_key()) for name in names)


ALL_KEYS = text_of("report", "server", "owner")


def changed(path: str, value: Any) -> Any:
    """The report with one value replaced and every seal made again, as a holder of the key could."""
    document = copy.deepcopy(DOCUMENT)
    holder: Any = document
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in steps:
        holder = holder[step]
    assert holder[last] != value
    holder[last] = value
    rows = {name: document[name] for name in ("rows", "excludedResults")}
    unchanged = {name: document[name] for name in ("summary", "claims", "keys", "policySha256", "attestationRoot")}
    again = resealed(copy.deepcopy(document), key=example.KEYS.report)
    assert {name: len(again[name]) for name in rows} == {name: len(value) for name, value in rows.items()}
    return example.sealed_again({**again, **unchanged})


CHANGES = [
    ("rows.0.overheadPct", 0.5, "$.rows[0].overheadPct"),
    ("rows.0.protectedUnits", 1, "$.rows[0].protectedPerSec"),
    ("rows.0.rawElapsedSec", 5.0, "$.rows[0].rawPerSec"),
    ("rows.0.protectedPerSec", 1001.0, "$.rows[0].protectedPerSec"),
    ("rows.0.roundFigures.1.rawUnits", 1999, "$.rows[0].rawUnits"),
    ("rows.0.roundFigures.0.overheadPct", 0.1, "$.rows[0].roundFigures[0].overheadPct"),
    ("rows.0.roundFigures.1.round", 3, "$.rows[0].roundFigures"),
    ("rows.0.overheadCi95Pct", [0.9, 1.1], "$.rows[0].overheadCi95Pct[0]"),
    ("rows.0.overheadCi90Pct", None, "$.rows[0].overheadCi90Pct"),
    ("rows.0.roundsMeanPct", 0.1, "$.rows[0].roundsMeanPct"),
    ("rows.0.verdict", "equivalent within margin", "$.rows[0].verdict"),
    ("rows.0.verdictReason", "trust me", "$.rows[0].verdictReason"),
    ("rows.0.interpretation", "no overhead at all", "$.rows[0].interpretation"),
    ("rows.0.method", "magic", "$.rows[0].method"),
    ("rows.0.protectedSetupSec", 0.1, "$.rows[0].protectedSetupSec"),
    ("rows.0.protectedFinalLoss", 0.5, "$.rows[0].protectedFinalLoss"),
    ("rows.0.protectedAdapterSha256", example.digest("other"), "$.rows[0].protectedAdapterSha256"),
    ("rows.0.rawAdapterSha256", DOCUMENT["rows"][0]["protectedAdapterSha256"], "$.rows[0].rawAdapterSha256"),
    ("rows.0.stopReason", "steps", "$.rows[0].stopReason"),
    ("rows.0.treatment", [], "$.rows[0].treatment"),
    ("rows.0.standIn", True, "$.rows[0].standIn"),
    ("rows.0.dataOrderSeeds.0.raw", 5, "$.rows[0].dataOrderSeeds[0].raw"),
    ("rows.0.journal.0.lines", 3, "$.rows[0].journal[0].lines"),
    ("rows.0.lifecycle.held", 1, "$.rows[0].lifecycle"),
    ("rows.0.findings.4.finding", "held", "$.rows[0].findings[4].finding"),
    ("rows.0.findings.0.evidence", example.digest("else"), "$.rows[0].findings[0].evidence"),
    ("rows.0.findings.0.invariant", "weather fine", "$.rows[0].findings"),
    ("rows.0.findings.1.invariant", "attestation verified", "$.rows[0].findings"),
    ("rows.0.waived", [], "$.rows[0].findings[4]"),
    ("rows.0.observation.rounds.0.protected.journal.3", "{}", "$.rows[0].observation.rounds[0].protected.journal"),
    ("rows.0.observation.rounds", [], "$.rows[0].observation"),
    ("rows.0.observation", {}, "$.rows[0].observation"),
    ("excludedResults.0.rawCallback", "completed", "$.excludedResults[0].rawCallback"),
    ("excludedResults.0.findings", [], "$.excludedResults[0].findings"),
    ("excludedResults.1.lifecycle", {"attempted": 3, "held": 3}, "$.excludedResults[1].observation"),
    ("excludedResults.1.rowId", DOCUMENT["rows"][0]["rowId"], "$.excludedResults[1].rowId"),
    ("summary.measured", 7, "$.summary.measured"),
    ("summary.lifecycle.lower95", 0.99, "$.summary.lifecycle"),
    ("claims.notShown", [], "$.claims.notShown"),
    ("tamper.0.seenReason", "signature", "$.tamper[0].passed"),
    ("tamper.0.passed", False, "$.tamper[0].passed"),
    ("cleanup.status", "unproven", "$.cleanup.status"),
    ("cleanup.allocations", [], "$.rows[0].allocationName"),
    ("keys.servers", [], "$.keys"),
    ("policySha256", example.digest("mild"), "$.policySha256"),
    ("attestationRoot", "hardware", "$.attestationRoot"),
    ("methodology.maxOverheadPct", 2.0, "$.rows[0].limit"),
    ("extra", {"example/note": "203.0.113.7:22117"}, "$.extra[*]"),
]


GOLDEN = json.loads((Path(__file__).parents[2] / "data/reports/report-1.0-mock.json").read_bytes())


def malformed() -> Any:
    """A whole report in which one value of an observation has another type."""
    document = copy.deepcopy(GOLDEN)
    document["rows"][0]["observation"]["rounds"][0]["raw"]["callback"]["units"] = "7"
    return resealed(document, key=example.KEYS.report)
