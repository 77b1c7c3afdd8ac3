"""The schema: closed, complete, strict about numbers, and every document ever published still validates."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.schema import load_schema, schema_faults, validate
from tests.unit.report import example

ROOT = Path(__file__).parents[2]
#: Reports that earlier versions wrote, and every one that was published.
GOLDENS = sorted([*(ROOT / "tests" / "data" / "reports").glob("*.json"), *(ROOT / "reports" / "published").rglob("*.json")])
SCHEMA = load_schema()
DOCUMENT = example.document(
    example.measured(given=example.settings(max_overhead_pct=5.0)),
    example.excluded(),
    example.lost(),
    outstanding_releases=(
        {"nonce": "n", "sub": "s", "run": "r", "manifest": example.digest("m"), "released_at": 1, "deadline": 2},
    ),
)
NULL_ROW = {
    "rowId": "null-h100-0123456789ab",
    "name": "null-h100",
    "provider": "mock",
    "providerInstanceId": "mock-1",
    "allocationName": "glasshouse-run-1-a",
    "gpuModel": "CPU: Example Processor 9000",
    "gpuUuid": None,
    "workload": "mlp",
    "modelId": None,
    "rounds": 5,
    "unit": "epochs",
    "firstUnits": 1000,
    "secondUnits": 1001,
    "firstElapsedSec": 2.0,
    "secondElapsedSec": 2.0,
    "differencePct": 0.1,
    "differenceCi90Pct": [-0.3, 0.5],
    "marginPct": 1.0,
    "qualifies": True,
    "observation": {"rounds": []},
    "dryRun": True,
    "simulated": False,
    "seal": DOCUMENT["seal"],
}
WHOLE = {**DOCUMENT, "nullRows": [NULL_ROW]}
OBSERVATION = re.compile(r"observation|workloadFacts\.\d+\.(?:protected|raw)\.|packages|PhasesSec|^extra")

Path_ = tuple[str | int, ...]


def objects(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, dict[str, Any]]]:
    if isinstance(value, dict):
        yield path, value
        for name, item in value.items():
            yield from objects(item, (*path, name))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from objects(item, (*path, place))


def dotted(path: Path_) -> str:
    return ".".join(map(str, path))


def closed_objects() -> list[tuple[Path_, dict[str, Any]]]:
    """Every object but those whose names are data (phases, packages) or whose shape is another room's (observations)."""
    return [(path, item) for path, item in objects(WHOLE) if not OBSERVATION.search(dotted(path)) and path[-1:] != ("protected",)]


def at(document: dict[str, Any], path: Path_) -> Any:
    for step in path:
        document = document[step]  # type: ignore[index]
    return document


def is_valid(document: Any) -> bool:
    return next(schema_faults(document), None) is None


def test_schema_is_a_schema() -> None:
    """Raises where a keyword has a value of another type, which validation would pass over."""
    Draft202012Validator.check_schema(SCHEMA)


def test_example_validates_with_every_list_filled() -> None:
    assert validate(WHOLE) is WHOLE
    assert all(WHOLE[name] for name in ("rows", "nullRows", "excludedResults", "tamper"))


OPTIONAL = {"$schema", "targetSec", "stepBudget", "fixedCosts", "totalCost", "priceUsdPerHour", "invariantsRevision"}
DROPPED = [(path, name) for path, item in closed_objects() for name in item if name not in OPTIONAL and path[-1:] != ("raw",)]


@pytest.mark.parametrize(("path", "name"), DROPPED, ids=[dotted((*path, name)) for path, name in DROPPED])
def test_document_without_a_field_is_refused_by_its_place(path: Path_, name: str) -> None:
    document = copy.deepcopy(WHOLE)
    del at(document, path)[name]

    faults = list(schema_faults(document))

    assert faults
    assert any(name in fault for fault in faults)


CLOSED = [path for path, _ in closed_objects() if path[-1:] != ("raw",)]


@pytest.mark.parametrize("path", CLOSED, ids=[dotted(path) or "$" for path in CLOSED])
def test_document_with_an_unknown_field_is_refused(path: Path_) -> None:
    document = copy.deepcopy(WHOLE)
    at(document, path)["unheardOf"] = 1

    assert not is_valid(document)


def test_every_object_of_the_schema_is_closed_but_the_named_ones() -> None:
    """`extra` is the one open object; maps of names and the observation define their names."""
    for path, item in objects(SCHEMA):
        if item.get("type") == "object" and "properties" in item:
            assert item.get("additionalProperties") is False, dotted(path)


@pytest.mark.parametrize("name", ["observation", "observation.rounds.0", "observation.keys", "observation.rounds.0.raw.callback"])
@pytest.mark.parametrize("figure", ["overheadPct", "protectedPerSec", "steps_per_sec", "rate", "overhead"])
def test_no_figure_hides_in_an_excluded_row(name: str, figure: str) -> None:
    document = copy.deepcopy(WHOLE)
    row = document["excludedResults"][0]
    row["observation"]["rounds"][0]["raw"]["callback"] = {}
    steps: Path_ = tuple(int(step) if step.isdigit() else step for step in name.split("."))
    at(row, steps)[figure] = 1.0

    assert not is_valid(document)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["overheadPct", "protectedElapsedSec", "protectedFinalLoss", "roundsMeanPct"])
def test_number_that_is_not_finite_is_refused(field: str, value: float) -> None:
    document = copy.deepcopy(WHOLE)
    document["rows"][0][field] = value

    with pytest.raises(ReportError, match="not finite"):
        validate(document)


WRONG = [
    ("createdAt", "yesterday"),
    ("createdAt", "2026-11-20T17:00:00+01:00"),
    ("createdAt", "2026-13-40T17:00:00Z"),
    ("schemaVersion", "1.1"),
    ("schemaVersion", 1.0),
    ("attestationRoot", "firmware"),
    ("policySha256", "sha256:" + "0" * 64),
    ("extra", {"plain": 1}),
    ("rows.0.overheadPct", True),
    ("rows.0.overheadPct", 100.0),
    ("rows.0.overheadPct", "1.0"),
    ("rows.0.protectedUnits", 0),
    ("rows.0.protectedPerSec", 0.0),
    ("rows.0.attestation", "unseen"),
    ("rows.0.runtimeState", "terminated"),
    ("rows.0.rawCallback", "lost"),
    ("rows.0.sameAllocation", None),
    ("rows.0.findings", []),
    ("rows.0.findings.0.finding", "broken"),
    ("rows.0.findings.0.evidence", "abc"),
    ("rows.0.verdict", "excluded"),
    ("rows.0.verdict", "faster"),
    ("rows.0.overheadCi95Pct", [1.0]),
    ("rows.0.overheadCi95Pct", [1.0, 2.0, 3.0]),
    ("rows.0.stepBudget", 5),
    ("rows.0.publishable", True),
    ("rows.0.unpublishableBecause", []),
    ("rows.0.asDeclared", True),
    ("rows.0.declared", None),
    ("rows.0.protectedPeakMemory", {"bytes": None, "reason": None}),
    ("rows.0.protectedPeakMemory", {"bytes": 1, "reason": "why"}),
    ("rows.0.roundFigures.0.order", ["raw", "raw"]),
    ("rows.0.rowId", "mlp"),
    ("rows.0.seal", "none"),
    ("excludedResults.0.outcome", "passed"),
    ("excludedResults.0.publishable", True),
    ("excludedResults.0.reason", ""),
    ("summary.lifecycle.lower95", 1.5),
    ("cleanup.status", "fine"),
    ("keys.report", "short"),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=[f"{path}={value!r:.30}" for path, value in WRONG])
def test_wrong_value_is_refused(path: str, value: Any) -> None:
    document = copy.deepcopy(WHOLE)
    *steps, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    at(document, tuple(steps))[last] = value

    assert not is_valid(document)


def test_dry_run_is_never_publishable() -> None:
    document = copy.deepcopy(WHOLE)
    document["rows"][0] |= {"publishable": True, "unpublishableBecause": []}

    assert not is_valid(document)


def test_schema_error_names_the_path_and_not_the_value() -> None:
    document = copy.deepcopy(WHOLE)
    document["rows"][0]["verdict"] = "a secret word"

    with pytest.raises(ReportError, match=r"\$\.rows\[0\]\.verdict") as caught:
        validate(document)

    assert "a secret word" not in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "x", {}, {"schemaVersion": []}])
def test_document_that_is_no_report_is_refused(document: Any) -> None:
    with pytest.raises(ReportError):
        validate(document)


def test_unknown_version_has_no_schema() -> None:
    with pytest.raises(ReportError, match="schemaVersion"):
        load_schema("9.9")


def test_there_is_a_golden_report() -> None:
    assert GOLDENS


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: str(path.name))
def test_golden_report_still_validates_and_still_checks(path: Path) -> None:
    """A published document validates against its own version for ever."""
    document = validate(json.loads(path.read_bytes()))

    derivation = example.EXAMPLE if path.stem.endswith("example") else None  # the others were written by real runs
    assert check_bytes(path.read_bytes(), derivation=derivation).faults == ()
    assert report_bytes(document) == path.read_bytes()


def test_every_field_has_a_note() -> None:
    """A field without an explanation will be misread."""
    notes = (ROOT / "schemas" / "README.md").read_text("utf-8")
    described = set(re.findall(r"`([^`]+)`", notes)) | set(re.findall(r"\w+", "".join(re.findall(r"`\{[^`]+\}`", notes))))
    fields = {
        name
        for _, item in objects(SCHEMA)
        if "properties" in item and item.get("type") == "object"
        for name in item["properties"]
    }
    explained_elsewhere = {"allocation", "plan", "material", "guest", "nonce", "protected", "raw"}  # the observation's own

    assert fields - described - explained_elsewhere == set()
