"""A run that redaction stopped can be published without what stopped it, and without renting again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import Level, check_file
from pytest_glasshouse.errors import ConfigurationError, RedactionError, ReportError
from pytest_glasshouse.publish.objections import objections
from pytest_glasshouse.publish.republish import republish
from pytest_glasshouse.publish.withheld_records import withhold_records
from pytest_glasshouse.publish.writer import PublishedFiles, publish, publish_records
from pytest_glasshouse.report.attempts import attempt_entry, standing_record
from tests.unit.report import example

SAMPLE = "203.0.113.7:22117"


def stopped(tmp_path: Path, document: Any) -> Path:
    """A run directory whose report was stopped."""
    with pytest.raises(RedactionError):
        stop(document, tmp_path)
    return tmp_path / "run"


def stop(document: Any, tmp_path: Path) -> None:
    given: dict[str, Any] = {"key": example.KEYS.report, "derivation": example.EXAMPLE}
    publish(document, report=tmp_path / "run.json", run_directory=tmp_path / "run", **given)


def again(run: Path, **given: Any) -> PublishedFiles:
    return republish(run, key_of=lambda _: example.KEYS.report, derivation=example.EXAMPLE, **given)


def republished(tmp_path: Path, document: Any, **given: Any) -> Any:
    published = again(stopped(tmp_path, document), **given)
    assert SAMPLE not in published.report.read_text("utf-8")
    assert published.bundle is not None
    assert check_file(published.bundle, derivation=example.EXAMPLE).level is Level.CONSISTENT
    loaded: dict[str, Any] = json.loads(published.report.read_bytes())
    return loaded


def test_free_text_is_masked_where_it_stands(tmp_path: Path) -> None:
    record = example.lost()
    record["record"]["reason"] = f"no answer from {SAMPLE}"

    report = republished(tmp_path, example.document(example.measured(), record))

    assert report["excludedResults"][0]["reason"] == "[withheld: ssh-endpoint]"
    assert len(report["rows"]) == 1


def test_text_of_a_finding_is_masked_and_the_finding_stays(tmp_path: Path) -> None:
    record = example.measured()
    record["record"]["findings"][0]["seen"] = SAMPLE

    report = republished(tmp_path, example.document(record))

    assert report["rows"][0]["findings"][0]["seen"] == "[withheld: ssh-endpoint]"
    assert report["rows"][0]["findings"][0]["finding"] == "held"


def test_row_whose_observation_holds_a_forbidden_value_is_withheld_whole(tmp_path: Path) -> None:
    """Findings are computed from what was observed: it can be taken out as a whole or not at all."""
    observation = example.observation()
    observation["rounds"][0]["guest"][0]["bootId"] = SAMPLE

    report = republished(tmp_path, example.document(example.measured(observation=observation), example.lost()))

    assert report["rows"] == []
    assert [each["name"] for each in report["excludedResults"]] == ["mlp-h100-lost", "mlp-h100-60s"]
    assert "ssh-endpoint" in report["excludedResults"][1]["reason"]
    assert report["summary"]["lifecycle"] == {"held": 0, "attempted": 1, "lower95": 0.0}


def test_extra_is_dropped_whole(tmp_path: Path) -> None:
    """Nothing depends on it, and its names may be what is forbidden."""
    assert republished(tmp_path, example.document(extra={"example/note": SAMPLE}))["extra"] == {}


def test_text_of_the_run_is_masked(tmp_path: Path) -> None:
    environment = {**example.facts().environment, "release": SAMPLE}

    report = republished(tmp_path, example.document(environment=environment))

    assert report["environment"]["release"] == "[withheld: ssh-endpoint]"


def test_report_is_written_to_the_given_path(tmp_path: Path) -> None:
    record = example.lost()
    record["record"]["decision"] = SAMPLE
    run = stopped(tmp_path, example.document(record))

    published = again(run, report=tmp_path / "else" / "r.json")

    assert published.report == tmp_path / "else" / "r.json"
    assert not (tmp_path / "run.json").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"$schema": SAMPLE},
        {"runId": SAMPLE},
        {"createdAt": SAMPLE},
        {"attestationRoot": SAMPLE},
        {SAMPLE: 1},
        {"generatedBy": {"name": SAMPLE, "version": SAMPLE}},
        {"subject": {"name": SAMPLE, "version": None, "wheelSha256": None, "gitCommit": SAMPLE, "dirty": None}},
        {"extra": {f"x/{SAMPLE}": SAMPLE}},
        {"cleanup": {"status": "proven", "allocations": []}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_of_the_run_can_be_redacted(tmp_path: Path, change: dict[str, Any]) -> None:
    """A paid run must not be lost to one field that is in no row."""
    with pytest.raises((RedactionError, ReportError)):
        stop({**example.document(), **change}, tmp_path)

    published = again(tmp_path / "run")

    assert SAMPLE not in published.report.read_text("utf-8")
    assert check_file(published.report, derivation=example.EXAMPLE).level is Level.CONSISTENT


@pytest.mark.parametrize("place", ["name", "rowId", "modelId", "namedGpuModel", "allocationName", "workload", "overridden"])
def test_row_named_by_a_forbidden_value_loses_its_name(tmp_path: Path, place: str) -> None:
    record = example.measured()
    record["record"][place] = [SAMPLE] if place == "overridden" else SAMPLE
    if place == "rowId":
        record["record"][place] = "sk-" + "a1B2" * 8 + "-0123456789ab"
    changes: dict[str, Any] = {"attempts": _attempts(record["record"]["rowId"])} if place == "rowId" else {}
    with pytest.raises((RedactionError, ReportError)):
        stop(example.document(record, example.lost(), **changes), tmp_path)

    text = again(tmp_path / "run").report.read_text("utf-8")

    assert SAMPLE not in text
    assert "a1B2a1B2" not in text
    assert check_file(tmp_path / "run.json", derivation=example.EXAMPLE).level is Level.CONSISTENT
    assert len(json.loads(text)["excludedResults"]) == 2 - (place == "workload")


def _attempts(row_id: str) -> tuple[dict[str, Any], ...]:
    attempt = {
        "startedAt": "2026-11-20T17:00:00Z",
        "kept": [],
        "begun": [row_id],
        "finished": [{"rowId": row_id, "outcome": "measured"}],
    }
    return ({"attempt": 1, **attempt}, {"attempt": 2, **attempt, "kept": [row_id], "begun": [], "finished": []})


def test_run_that_failed_the_check_is_published_without_its_faulty_parts(tmp_path: Path) -> None:
    record = example.measured()
    record["record"]["overheadPct"] += 1.0
    with pytest.raises(ReportError, match="overheadPct"):
        stop(example.document(record, example.lost()), tmp_path)

    report = json.loads(again(tmp_path / "run").report.read_bytes())

    assert [each["outcome"] for each in report["excludedResults"]] == ["lost", "error"]
    assert "$.rows[0].overheadPct" in report["excludedResults"][1]["reason"]


def test_directory_without_a_quarantined_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    with pytest.raises(ConfigurationError, match="holds no quarantined report"):
        again(tmp_path / "run")


def test_key_that_is_a_forbidden_value_is_in_no_reason(tmp_path: Path) -> None:
    """The place of a fault is published with the row it is in: a name in it may be the guest's."""
    secret = "sk-" + "a1B2" * 8
    observation = example.observation()
    observation["rounds"][0]["guest"][0] = {secret: {"overheadPct": 1}, "x": {f"{SAMPLE} overheadPct": 1}}
    records = [example.measured(observation=observation), example.lost()]
    with pytest.raises(RedactionError):
        stop(example.document(*records), tmp_path)
    report = again(tmp_path / "run").report

    assert secret not in report.read_text("utf-8")
    assert SAMPLE not in report.read_text("utf-8")
    gone = json.loads(report.read_bytes())["excludedResults"][-1]
    assert gone["name"] == "mlp-h100-60s"
    # and so it is where the run withholds the row by itself
    done, settled = publish_records(
        records, make=lambda given: example.document(*given), report=tmp_path / "by itself.json", run_directory=tmp_path / "another",
        key=example.KEYS.report, derivation=example.EXAMPLE,
    )  # fmt: skip
    assert secret not in done.report.read_text("utf-8")
    assert [each["record"]["name"] for each in settled.records] == ["mlp-h100-60s", "mlp-h100-lost"]
    assert [each["list"] for each in settled.records] == ["excludedResults", "excludedResults"]


@pytest.mark.parametrize("place", ["parameters", "reason", "allocationName", "notHeld"])
def test_secret_of_an_earlier_attempt_or_a_parameter_withholds_its_row_alone(place: str) -> None:
    """The reasons of every attempt stay in the row; the report of the run does not depend on them."""
    first, second = example.lost(), example.measured()
    attempt: Any = {"startedAt": "2026-11-20T17:00:00Z", **attempt_entry(first)}
    later: Any = {"startedAt": "2026-11-20T17:01:00Z", **attempt_entry(second)}
    not_held = [{"invariant": "same work", "finding": "unseen", "reason": SAMPLE}]
    attempt |= {} if place == "parameters" else {place: not_held if place == "notHeld" else SAMPLE}
    record = standing_record([(attempt, first), (later, second)])
    if place == "parameters":
        record["record"]["parameters"] = {"secret": SAMPLE}

    found = withhold_records(
        [record, example.measured(name="other")],
        make=lambda records: example.document(*records),
        find=lambda document: objections(document, taint=(), derivation=example.EXAMPLE),
    )

    assert not found.blocked
    assert SAMPLE not in json.dumps(found.document)
    assert [each["name"] for each in found.document["rows"]] == ["other"]
    withheld = found.document["excludedResults"][0]
    assert "it needed more than one attempt" in withheld["unpublishableBecause"]
    assert len(withheld.get("attempts", ())) == (2 if place in {"reason", "notHeld"} else 0)


@pytest.mark.parametrize("much", ["x" * (30 << 20), [0] * 800_000], ids=["bytes", "values"])
def test_rows_that_are_too_large_together_cost_the_largest_and_not_the_run(much: Any) -> None:
    """Each could be read alone. What guests filled two rows with must not keep the others from being published."""
    document = example.document(example.measured(), example.lost())
    small = document["rows"][0]
    document["rows"] += [{**small, "observation": {"x": much}}, {**small, "observation": {"x": much[:-1]}}]

    found = objections(document, taint=(), derivation=example.EXAMPLE)

    assert [each.path for each in found] == ["$.rows[1]"]
