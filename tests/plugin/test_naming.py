"""A name that reads like a secret is refused before anything is rented: after the run it would keep the report from being written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project

TOKEN = "sk-" + "a1B2" * 8
FLAT = "AKIA" + "A1B2" * 4


def refused(project: Project, *arguments: str, message: str) -> None:
    result = project.run(*arguments)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])
    assert len([line for line in result.errlines if line]) == 1
    assert TOKEN not in result.stderr.str()
    assert project.asked("plan") == []
    assert project.left_behind() == []


@pytest.mark.parametrize("name", [TOKEN, FLAT, "sk-learn"])
def test_row_called_like_a_token_is_refused(project: Project, name: str) -> None:
    project.rows("good", name)
    refused(
        project,
        message=f"the name of row 2 of 2 ({name[:3]}...): expected a name that may be published, saw one that redaction would stop (rule ",
    )


def test_model_directory_called_like_a_token_is_refused(project: Project) -> None:
    directory = project.pytester.path / TOKEN
    directory.mkdir()
    (directory / "config.json").write_text("{}", "utf-8")
    project.pytester.makepyfile(test_rows=LORA)
    refused(project, "--glasshouse-model", TOKEN, message="the model of row 1 of 1 (sk-...)")


def test_test_file_called_like_a_token_is_refused(project: Project) -> None:
    project.rows("good")
    (project.pytester.path / "test_rows.py").rename(project.pytester.path / f"test_{FLAT}_.py")
    folder = project.pytester.mkdir(TOKEN)
    (project.pytester.path / f"test_{FLAT}_.py").rename(folder / "test_rows.py")
    refused(project, message="the test of row 1 of 1")


def test_report_and_data_called_like_a_token_are_refused(project: Project) -> None:
    project.rows("good")
    refused(project, "--glasshouse-report", f"{TOKEN}.json", message="the file name of --glasshouse-report (sk-...)")


def test_value_of_a_credential_in_the_environment_names_no_row(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The taint list holds before the run as it does after it."""
    monkeypatch.setenv("SOME_API_KEY", "quite-an-ordinary-word")
    project.rows("quite-an-ordinary-word")
    refused(project, message="rule taint")


def test_ordinary_names_pass(project: Project) -> None:
    result = project.rows("good", "h100-60s", "skill-1", "a.b_c-d").run()
    assert result.ret == 0
    assert len(json.loads(project.reports()[0].read_text("utf-8"))["rows"]) == 4


LORA = """
import pytest
from pytest_glasshouse.rows import RowSpec

@pytest.mark.parametrize("row", [RowSpec(name="good", workload="lora", gpu="h100", order="raw-first", target_s=60, model="a/b")])
def test_row(row, allocation, protected_runtime, raw_runner, row_report):
    row_report.record(row.run(allocation, protected_runtime, raw_runner))
"""
