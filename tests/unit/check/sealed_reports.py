"""A report with a row whose base is sealed: a real one of a dry run, and what can be changed in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.report import example

PATH = Path(__file__).parents[2] / "data" / "reports" / "report-1.0-sealed.json"
DOCUMENT: dict[str, Any] = json.loads(PATH.read_bytes())
Edit = Callable[[dict[str, Any]], object]


def sealed_report(edit: Edit = lambda _document: None) -> Any:
    """The report with an edit, and everything that follows from its rows computed and sealed again."""
    document = copy.deepcopy(DOCUMENT)
    edit(document)
    return resealed(document, key=example.KEYS.report)


def of_row(edit: Edit) -> bytes:
    """The report with an edit of its row."""
    return report_bytes(sealed_report(lambda document: edit(document["sealedRows"][0])))


def _unplanned(row: dict[str, Any]) -> None:
    """The plan does not say that there is no raw leg."""
    del row["observation"]["plan"]["base"]


def _measured_elsewhere(row: dict[str, Any]) -> None:
    row["observation"]["rounds"][0]["protected"]["journal"].pop()


def _with_raw_leg(row: dict[str, Any]) -> None:
    observed = row["observation"]["rounds"][0]
    observed["raw"] = {}


def _cache(row: dict[str, Any]) -> None:
    for observed in row["observation"]["rounds"]:
        observed["protected"]["cache"] = None


#: What a publisher may want to be believed of such a row, and a part of the path where it shows.
LIES: Mapping[str, tuple[Edit, str]] = {
    "a faster rate": (lambda row: row.update(protectedPerSec=1000.0), ".protectedPerSec"),
    "a narrower interval": (lambda row: row.update(protectedPerSecCi95=[86.0, 86.1]), ".protectedPerSecCi95"),
    "a faster round": (lambda row: row["protectedRounds"][0].update(protectedPerSec=1000.0), ".protectedRounds[0]"),
    "fewer rounds": (lambda row: row["observation"]["rounds"].pop(), ".observation.rounds"),
    "less exposed": (lambda row: row.update(exposurePeakBytes=0), ".exposurePeakBytes"),
    "a finding left out": (lambda row: row["findings"].pop(), ".findings"),
    "a lifecycle more": (lambda row: row["lifecycle"].update(held=9, attempted=9), ".lifecycle"),
    "a state of its own": (lambda row: row.update(sameAllocation=True, attestation="verified", runtimeState="zeroized"), ""),
    "not planned as one": (_unplanned, ".base"),
    "a cut journal": (_measured_elsewhere, ".journal"),
    "a raw leg that ran": (_with_raw_leg, ".findings"),
    "a page cache nobody saw": (_cache, ".cacheState"),
    "an allocation of its own": (lambda row: row.update(providerInstanceId="other"), ".providerInstanceId"),
    "another row's plan": (lambda row: row.update(seed=1), ".seed"),
    "an order with a raw leg": (lambda row: row["observation"]["rounds"][0].update(order=["protected", "raw"]), ".order"),
    "publishable": (lambda row: row.update(publishable=True, unpublishableBecause=[], dryRun=False), ".publishable"),
    "a material of nothing": (lambda row: row["observation"].pop("material"), ".observation"),
}
