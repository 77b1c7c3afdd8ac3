"""Results from before there were reports: their arithmetic is checked, and nothing they state is called shown."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import Level, check_bytes
from pytest_glasshouse.check.legacy_results import check_legacy, is_legacy
from pytest_glasshouse.cli.main import main
from tests.unit.report import example
from tests.unit.report.archives import archive

ROWS = json.loads((Path(__file__).parents[2] / "data" / "published_rows.json").read_bytes())
SHAPE: dict[str, Any] = {
    "title": "Same-instance overhead",
    "validResults": [
        {
            "provider": "runpod", "gpuModel": "NVIDIA H100 80GB HBM3", "durationSec": 1800, "order": "raw-first",
            "protectedEpochsPerSec": 580.205, "rawEpochsPerSec": 707.995, "overheadPct": 18.05,
            "attestation": "verified", "runtimeState": "zeroized",
        },
    ],
    "excludedResults": [{"order": "protected-first", "reason": "the raw callback was lost", "decision": "Excluded"}],
    "modelRow": {"steps": 8, "protectedStepsPerSec": 2.028, "rawStepsPerSec": 2.25, "overheadPct": 9.86,
                 "protectedTrainElapsedSec": 3.944, "rawTrainElapsedSec": 3.555},
}  # fmt: skip


def test_every_published_overhead_follows_from_its_rates() -> None:
    assert (check_legacy(ROWS).faults, check_legacy(ROWS).recomputed) == ((), 22)
    assert (check_legacy(SHAPE).faults, check_legacy(SHAPE).recomputed) == ((), 2)


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (("validResults", 0, "overheadPct"), 17.05, "$.validResults[0].overheadPct"),
        (("validResults", 0, "rawEpochsPerSec"), 717.995, "$.validResults[0].overheadPct"),
        (("validResults", 0, "rawEpochsPerSec"), None, "$.validResults[0].overheadPct"),
        (("validResults", 0, "overheadPct"), "18.05", "$.validResults[0].overheadPct"),
        (("modelRow", "overheadPct"), 8.86, "$.modelRow.overheadPct"),
        (("modelRow", "protectedStepsPerSec"), 2.128, "$.modelRow.protectedRate"),
    ],
)
def test_changed_figure_is_named_with_its_place(path: tuple[Any, ...], value: Any, where: str) -> None:
    document = copy.deepcopy(SHAPE)
    holder: Any = document
    for step in path[:-1]:
        holder = holder[step]
    holder[path[-1]] = value

    assert [at for at, _ in check_legacy(document).faults] == [where]


def test_a_report_is_not_of_this_shape() -> None:
    assert not is_legacy(example.document())
    assert not is_legacy([])
    assert not is_legacy({"rows": 1})
    assert is_legacy(SHAPE)


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in example.document().items() if name not in names}


@pytest.mark.parametrize(
    "document",
    [
        without("schemaVersion"),
        without("schemaVersion", "$schema", "runId", "seal", "keys"),
        {**without("schemaVersion"), "SchemaVersion": "1.0"},
        {"rows": example.document()["rows"]},
        {"rows": []},
        {"validResults": []},
        {"rows": [{}]},
        {"rows": [1, "a", None]},
        {"rows": [{"protectedRate": 1.0, "rawRate": 2.0}]},
        {"rows": [{"protectedRate": 1.0, "rawRate": 2.0, "overheadPct": True}]},
        {"rows": [{"protectedUnits": 1, "protectedElapsedSec": 1e-320, "rawRate": 2.0, "overheadPct": 50.0}]},
        {"rows": [{"protectedRate": 1e308, "rawRate": 1e-308, "overheadPct": 50.0}]},
        {"rows": [{"protectedRate": 1.0, "rawRate": 2.0, "rawElapsedSec": 1e-300, "overheadPct": 7.0}]},
        {"excludedResults": []},
        {},
        [],
        None,
        "rows",
        SHAPE,
        ROWS,
    ],
)
def test_check_never_guesses_that_a_document_is_of_this_shape(tmp_path: Path, document: Any) -> None:
    """A faulty report must not become a published result by losing the field that it is known by."""
    path = tmp_path / "d.json"
    path.write_text(json.dumps(document), "utf-8")

    assert main(["check", str(path)]) == 1
    assert main(["check", "--published", str(path)]) == (0 if document in (SHAPE, ROWS) else 1)
    for command in (["gate", "--no-policy"], ["render", "--markdown"], ["export", "--row", "a"]):
        assert main([*command, str(path)]) == 4
    assert main(["compare", str(path), str(path)]) == 4
    assert main(["pool", str(path)]) == 1


def test_bundle_is_not_of_this_shape_whatever_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "d.glasshouse.zip"
    path.write_bytes(archive(("report.json", json.dumps(SHAPE).encode())))

    assert main(["check", str(path)]) == 1
    assert main(["check", "--published", str(path)]) == 1
    assert main(["gate", "--no-policy", str(path)]) == 4


def test_report_of_our_own_is_refused_where_older_results_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(example.document()), "utf-8")

    assert main(["check", "--published", str(path)]) == 1
    assert "saw fields of a report ($schema, " in capsys.readouterr().out


def test_check_lists_what_cannot_be_verified_and_reaches_no_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "published.json"
    path.write_text(json.dumps(SHAPE), "utf-8")

    assert check_bytes(path.read_bytes(), legacy=True).level is Level.NOTHING
    assert main(["check", "--published", str(path)]) == 0
    output = capsys.readouterr().out
    assert "2 overheads computed again, 0 faults, 1 excluded result" in output
    assert "stated only: attestation, runtimeState" in output
    assert "verified" not in output.replace("attestation: verified", "")
    assert main(["check", str(path), "--published", "--require", "consistent"]) == 1
    assert main(["gate", str(path)]) == 4
    assert main(["check", str(path)]) == 1
    assert "are checked with --published, and only so" in capsys.readouterr().out
