"""A run that redaction stopped can be published without what stopped it, and without renting again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, RedactionError, ReportError
from pytest_glasshouse.report.check import Level, check_file
from pytest_glasshouse.report.withhold import republish
from pytest_glasshouse.report.writer import publish
from tests.unit.report import example

SAMPLE = "203.0.113.7:22117"


def stopped(tmp_path: Path, document: dict[str, Any]) -> Path:
    """A run directory whose report was stopped."""
    with pytest.raises(RedactionError):
        publish(document, report=tmp_path / "reports" / "run.json", run_directory=tmp_path / "run")
    return tmp_path / "run"


def republished(tmp_path: Path, document: dict[str, Any], **given: Any) -> dict[str, Any]:
    published = republish(stopped(tmp_path, document), key=example.KEYS.report, **given)
    assert SAMPLE not in published.report.read_text("utf-8")
    assert check_file(published.bundle, derivation=example.EXAMPLE).level is Level.CONSISTENT
    loaded: dict[str, Any] = json.loads(published.report.read_bytes())
    return loaded


def test_free_text_is_masked_where_it_stands(tmp_path: Path) -> None:
    record = example.lost()
    record["record"]["reason"] = f"no answer from {SAMPLE}"

    again = republished(tmp_path, example.document(example.measured(), record))

    assert again["excludedResults"][0]["reason"] == "[withheld: ssh-endpoint]"
    assert len(again["rows"]) == 1


def test_words_of_a_finding_are_masked_and_the_finding_stays(tmp_path: Path) -> None:
    record = example.measured()
    record["record"]["findings"][0]["seen"] = SAMPLE

    again = republished(tmp_path, example.document(record))

    assert again["rows"][0]["findings"][0]["seen"] == "[withheld: ssh-endpoint]"
    assert again["rows"][0]["findings"][0]["finding"] == "held"


def test_row_whose_observation_holds_it_is_withheld_whole(tmp_path: Path) -> None:
    """Findings are computed from what was observed: it can be taken out as a whole or not at all."""
    observation = example.observation()
    observation["rounds"][0]["guest"][0]["bootId"] = SAMPLE

    again = republished(tmp_path, example.document(example.measured(observation=observation), example.lost()))

    assert again["rows"] == []
    assert [each["name"] for each in again["excludedResults"]] == ["mlp-h100-lost", "mlp-h100-60s"]
    assert "ssh-endpoint" in again["excludedResults"][1]["reason"]
    assert again["summary"]["lifecycle"] == {"held": 0, "attempted": 1, "lower95": 0.0}


def test_extra_is_dropped_whole(tmp_path: Path) -> None:
    """Nothing depends on it, and its names may be what is forbidden."""
    assert republished(tmp_path, example.document(extra={"example/note": SAMPLE}))["extra"] == {}


def test_text_of_the_run_is_masked(tmp_path: Path) -> None:
    environment = {**example.facts().environment, "release": SAMPLE}

    again = republished(tmp_path, example.document(environment=environment))

    assert again["environment"]["release"] == "[withheld: ssh-endpoint]"


def test_report_goes_where_it_is_asked_to(tmp_path: Path) -> None:
    record = example.lost()
    record["record"]["decision"] = SAMPLE
    run = stopped(tmp_path, example.document(record))

    published = republish(run, key=example.KEYS.report, report=tmp_path / "else" / "r.json")

    assert published.report == tmp_path / "else" / "r.json"
    assert not (tmp_path / "reports").exists()


def test_value_that_can_neither_be_masked_nor_withheld_stays_in_quarantine(tmp_path: Path) -> None:
    run = stopped(tmp_path, {**example.document(), "$schema": SAMPLE})

    with pytest.raises(RedactionError, match="neither"):
        republish(run, key=example.KEYS.report)

    assert not (tmp_path / "reports").exists()


def test_report_stopped_because_it_did_not_validate_is_still_stopped(tmp_path: Path) -> None:
    with pytest.raises(ReportError):
        publish({**example.document(), "runId": ""}, report=tmp_path / "r.json", run_directory=tmp_path / "run")

    with pytest.raises(ReportError):
        republish(tmp_path / "run", key=example.KEYS.report)


def test_directory_without_a_quarantined_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no quarantined report"):
        republish(tmp_path, key=example.KEYS.report)
