"""On GitHub Actions a run reports failures in annotations, the job's summary, JUnit properties."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from pytest_glasshouse.plugin.github_actions import workflow_commands
from pytest_glasshouse.render.github_annotations import annotation

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


@pytest.fixture
def on_github(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.pytester.path / "summary.md"))
    return project


def test_rows_that_were_not_measured_are_annotated_and_the_summary_has_the_tables(on_github: Project) -> None:
    result = on_github.rows("good", "broken", "nocapacity").run()

    result.stdout.fnmatch_lines(
        [
            "::error title=broken%3A failed::*(Excluded*",
            "::error title=nocapacity%3A infrastructure::*",
            "::notice*1 of 3 rows are a dry run*",
        ]
    )
    summary = (on_github.pytester.path / "summary.md").read_text("utf-8")
    assert "## Rows" in summary
    assert "## Excluded results" in summary


def test_cleanup_that_is_not_proven_is_annotated_first(on_github: Project) -> None:
    result = on_github.rows("good").run("--glasshouse-mock-fault", "terminate-fails")

    assert result.ret == 10
    (first, *_) = [line for line in result.outlines if line.startswith("::")]
    assert "may still cost money" in first


def test_report_that_was_stopped_is_shown_in_the_summary(on_github: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_DETAIL", "gone from a-secret-socket-name")
    assert on_github.rows("good").run().ret == 12
    assert "published no report" in (on_github.pytester.path / "summary.md").read_text("utf-8")


def test_nothing_is_annotated_outside_of_github(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    assert not [line for line in project.rows("broken").run().outlines if line.startswith("::")]


@pytest.mark.parametrize("workers", [[], ["-n1"]])
def test_junit_carries_figure_and_interval_of_each_row(project: Project, workers: list[str]) -> None:
    start = project.fork if workers else project.run
    project.rows("good", "broken")
    start("--junit-xml=junit.xml", *workers)
    cases = ET.parse(project.pytester.path / "junit.xml").iter("testcase")  # noqa: S314  (our own)
    properties = {
        str(case.get("name")): {str(each.get("name")): each.get("value") for each in case.iter("property")} for case in cases
    }

    good, broken = properties["test_row[good]"], properties["test_row[broken]"]
    assert (good["glasshouse.outcome"], good["glasshouse.overheadCi95Pct"]) == ("measured", "single sample")
    assert re.fullmatch(r"-?\d+\.\d{4}", good["glasshouse.overheadPct"] or "")
    assert broken["glasshouse.outcome"] == "failed"
    assert "glasshouse.overheadPct" not in broken


def test_no_text_escapes_from_an_annotation() -> None:
    assert annotation("error", "a,b:c", "100 %\n::warning::x") == "::error title=a%2Cb%3Ac::100 %25%0A::warning::x"


def test_few_annotations_are_made_of_many_rows() -> None:
    lost: Any = {"list": "excludedResults", "record": {"name": "row", "outcome": "lost", "reason": "gone", "decision": "again"}}

    commands = list(workflow_commands([lost] * 60, cleanup="", problems=()))

    assert len(commands) == 10
    assert "51 more rows were not measured" in commands[-1]
