"""Reports for the page's tests: one that a run wrote, one with everything a row may have, one with many rows."""

from __future__ import annotations

import copy
import json
import random
import re
import string
from pathlib import Path
from typing import Any

from pytest_glasshouse.observation.outcome import Outcome
from tests.unit.report import example

DATA = Path(__file__).parents[1] / "data" / "reports"


def written_by_a_run() -> dict[str, Any]:
    """A report of a dry run on a machine without a GPU."""
    found: dict[str, Any] = json.loads((DATA / "report-1.0-mock.json").read_bytes())
    return found


def report_with_everything() -> dict[str, Any]:
    """Segments, covariates, a null, an excluded row, a failed tamper case: made up, so `check` calls it faulty, and so does the page."""
    document = written_by_a_run()
    row = document["rows"][0]
    row |= {
        "name": "h100-interleaved-<script>alert(1)</script>", "order": "interleaved", "rounds": 6, "verdict": "equivalent within margin",
        "overheadPct": 0.61, "roundsMeanPct": 0.61, "overheadCi95Pct": [0.22, 1.0], "overheadCi90Pct": [0.3, 0.9], "dryRun": False,
        "gpuModel": "NVIDIA H100 80GB HBM3", "segments": list(_segments()),
        "covariates": [
            {"round": number, "samples": 40, "reasons": {"memory_mhz": "not supported"},
             "legs": {leg: {"samples": 20, "smClockMhz": 1755.2, "temperatureC": 61.0, "memoryClockMhz": None} for leg in ("protected", "raw")}}
            for number in (1, 2)
        ],
        "estimates": {
            "trimmedPct": 0.58, "trimmedCi95Pct": [0.2, 0.9], "agree": False, "minimumDetectablePct": 0.4, "pairs": 24,
            "effectivePairs": 21.3, "nulls": [{"kind": "split halves", "pct": 0.05, "ci90Pct": [-0.21, 0.32], "roundLogRatios": [0.0] * 6}],
        },
        "fixedCosts": [{"leg": "protected", "phase": "attest", "meanSec": 0.012, "ci95Sec": [0.01, 0.014]}],
        "totalCost": [{"hours": 24, "pct": 0.62, "ci95Pct": [0.2, 1.0], "usd": 0.31, "usdCi95": None}],
    }  # fmt: skip
    row["roundFigures"] = [{**row["roundFigures"][0], "round": number} for number in range(1, 7)]
    document["nullRows"] = [
        {"rowId": "null-000000000000", "observation": {}, "dryRun": False, "differencePct": 0.05, "order": "interleaved", "name": "null-h100", "gpuModel": row["gpuModel"], "allocationName": row["allocationName"], "workload": row["workload"],
         "rounds": 6, "differenceCi90Pct": [-0.31, 0.42], "marginPct": 1.0, "qualifies": True}
    ]  # fmt: skip
    wide = {
        **copy.deepcopy(row),
        "rowId": "wide-000000000000",
        "name": "wide",
        "overheadPct": -17.96,
        "roundsMeanPct": -17.96,
        "overheadCi95Pct": [-1327.0, 89.0],
    }
    alone = {**copy.deepcopy(row), "rowId": "alone-000000000000", "name": "single", "overheadCi95Pct": None, "segments": []}
    for name in ("covariates", "estimates", "fixedCosts", "totalCost"):
        del alone[name]
    document["rows"] += [wide, alone]
    excluded = {
        name: row[name]
        for name in ("findings", "waived", "order", "fixedOrder", "gpuModel", "namedGpuModel", "provider", "rounds")
    }
    excluded |= {"rowId": "lost-000000000000", "dryRun": False, "publishable": False, "name": "lost", "outcome": "excluded", "reason": "the raw callback never came",
                 "decision": "Excluded from overhead calculation", "targetSec": 60.0, "observation": {}, "unpublishableBecause": ["not measured"]}  # fmt: skip
    document["excludedResults"] = [excluded]
    document["tamper"] = [
        {
            "name": "nonce-replay",
            "expectedReason": "nonce",
            "seenReason": "nonce",
            "released": False,
            "seenNonce": "spent",
            "passed": True,
        },
        {
            "name": "composite",
            "expectedReason": "composite",
            "seenReason": None,
            "released": True,
            "seenNonce": "spent",
            "passed": False,
        },
    ]
    document["claims"]["notShown"] = ["memory scanned clean: not required here"]
    document["cleanup"]["allocations"][0]["status"] = "leak"
    return document


def broken_row(*, beside: int = 0) -> dict[str, Any]:
    """A report of a row that left plaintext behind, and of `beside` rows that were measured."""
    seen = example.observation(unseen=())
    seen["allocation"]["broken"] = ["runtime zeroized"]
    row = example.row(name="left-behind")
    record = example.record_of(Outcome(row=row, declared=row, allocation=example.allocation(), observation=seen))
    (zeroized,) = [each for each in record["record"]["findings"] if each["finding"] == "broken"]
    zeroized["reason"] = "the scan found 80 plaintext copies after the wipe"
    measured = [example.measured(name=f"measured-{place}") for place in range(beside)]
    found: dict[str, Any] = example.document(*measured, record)
    return found


def six_single_samples() -> dict[str, Any]:
    """Six rows of one round each, as the smoke rows are."""
    document = many(6)
    document["excludedResults"] = []
    return document


def many(number: int) -> dict[str, Any]:
    """A report with this many rows of real size, no two with a token in common: a page must not be small by repetition."""
    document = written_by_a_run()
    (row,) = document["rows"]
    draw = random.Random(20261121)
    document["rows"] = [{**_another(row, draw), "rowId": f"row-{place:012d}", "name": f"row-{place}"} for place in range(number)]
    return document


def _another(row: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """The row with every letter and digit of its digests, keys and tokens replaced."""

    def drawn(found: re.Match[str]) -> str:
        letters = "0123456789abcdef" if re.fullmatch("[0-9a-f]+", found[0]) else string.ascii_letters + string.digits
        return "".join(draw.choices(letters, k=len(found[0])))

    again: dict[str, Any] = json.loads(re.sub(r"(?<![\\\w])(?=\w*[0-9])[\w-]{32,}", drawn, json.dumps(row)))
    return again


def _segments() -> Any:
    for number in range(1, 7):
        for pair in range(1, 5):
            for position, leg in enumerate(("protected", "raw") if (number + pair) % 2 else ("raw", "protected"), 1):
                units = 1000 + 3 * number - pair - (7 if leg == "protected" else 0)
                yield {
                    "round": number,
                    "pair": pair,
                    "leg": leg,
                    "position": position,
                    "units": units,
                    "elapsedSec": 2.0 + 0.001 * pair,
                }
