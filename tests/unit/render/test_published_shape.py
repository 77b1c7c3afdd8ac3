"""The published shape comes out of a report, and follows from its own rates again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import check_bytes, load_document
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.render.published_shape import excerpt
from pytest_glasshouse.report.redaction import hits
from tests.unit.report import example

GOLDEN = Path(__file__).parents[2] / "data" / "reports" / "report-1.0-mock.json"


@pytest.mark.parametrize("document", [example.document(), load_document(GOLDEN.read_bytes())], ids=["example", "run"])
def test_excerpt_is_checked_like_what_was_published(document: Any) -> None:
    checked = check_bytes(excerpt(document).encode(), legacy=True)

    assert checked.faults == ()
    assert checked.legacy is not None
    assert checked.legacy.recomputed == len(document["rows"])
    assert hits(json.loads(excerpt(document))) == []


def test_excerpt_has_the_published_names_and_a_verdict_beside_each_figure() -> None:
    published = json.loads(excerpt(example.document()))
    row = published["validResults"][0]

    assert {"provider", "gpuModel", "durationSec", "order", "protectedEpochsPerSec", "rawEpochsPerSec", "overheadPct", "attestation",
            "runtimeState", "interpretation"} <= row.keys()  # fmt: skip
    assert (row["overheadCi95Pct"], row["verdict"]) == (None, "single sample")
    assert published["excludedResults"][0]["decision"] == "Excluded from overhead calculation"


def test_changed_excerpt_is_faulty() -> None:
    published = json.loads(excerpt(example.document()))
    published["validResults"][0]["overheadPct"] += 0.5

    assert [fault.path for fault in check_bytes(json.dumps(published).encode(), legacy=True).faults] == [
        "$.validResults[0].overheadPct"
    ]


def test_command_writes_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(GOLDEN), "--excerpt"]) == 0
    assert json.loads(capsys.readouterr().out)["reportSha256"] == hashlib.sha256(GOLDEN.read_bytes()).hexdigest()
