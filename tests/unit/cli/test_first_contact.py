"""What a newcomer types first means the obvious thing, and says where it wrote what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.report import example


def real(rounds: int = 6) -> Any:
    declared = example.row(rounds=rounds)
    return example.publishable(
        row=declared, declared=declared, observation=example.observation(rounds=rounds, unseen=()), rounds=rounds
    )


@pytest.fixture(name="reports")
def directory_with_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs: a green one, one of which a row failed, and a green one. The files' names are in no order of time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)
    reports = tmp_path / "reports"
    reports.mkdir()
    for number, (name, records) in enumerate((("c", [real()]), ("a", [real(), example.excluded()]), ("b", [real()])), 1):
        made = example.document(*records, run_id=f"run-{number}", created_at=f"2026-11-2{number}T17:00:00Z")
        (reports / f"{name}.json").write_bytes(report_bytes(made))
    return reports


def run(*arguments: str) -> int:
    try:
        return main(arguments, derivation=example.EXAMPLE)
    except SystemExit as ended:
        return int(str(ended.code))


def test_render_without_a_form_writes_the_page_beside_the_report(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "reports/a.json") == 0
    assert capsys.readouterr().out == "page  reports/a.html\n"
    assert (reports / "a.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_render_without_a_report_takes_the_newest(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render") == 0
    assert capsys.readouterr().out == "page  reports/b.html\n"


def test_dash_is_standard_output_and_a_file_is_named(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "reports/a.json", "--badge", "--out", "-") == 0
    assert capsys.readouterr().out.startswith("<svg")
    assert run("render", "reports/a.json", "--badge", "--out", "badge.svg") == 0
    assert capsys.readouterr().out == "badge  badge.svg\n"
    assert not Path("-").exists()


def test_history_is_of_the_usual_directory(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history") == 0
    assert capsys.readouterr().out.count("run-") == 5


def test_report_is_compared_with_the_one_before_it(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "reports/a.json") == 0
    assert "A: c.json\nB: a.json\n" in capsys.readouterr().out
    assert run("compare") == 0
    assert "A: a.json\nB: b.json\n" in capsys.readouterr().out
    assert run("compare", "last-green", "reports/b.json") == 0
    assert "A: c.json\nB: b.json\n" in capsys.readouterr().out
    assert run("compare", "reports/c.json") == 4
    assert "no report was made before it" in capsys.readouterr().err


def test_first_report_alone_is_told_from_a_directory_without_any(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in reports.glob("*.json"):
        path.unlink()
    assert run("render") == 4
    assert "no report was named, and reports/ has none" in capsys.readouterr().err


def test_baseline_has_a_name_and_is_no_run_of_its_own(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "reports/c.json", "reports/b.json", "--save", "release-1") == 0
    assert "saved as release-1: reports/baselines/release-1.json" in capsys.readouterr().out
    assert run("compare", "release-1", "reports/b.json") == 0
    assert "A: release-1.json" in capsys.readouterr().out
    assert run("history") == 0
    assert capsys.readouterr().out.count("run-") == 5
    assert run("compare", "release-2", "reports/b.json") == 4
    assert run("compare", "--save", "../away") == 4
    assert not list(reports.parent.glob("away*"))


@pytest.mark.parametrize(
    ("after", "limit", "code", "said"),
    [
        ("b", "1", 0, "PASSED: 1 row within the limit (at most 1 points more)"),
        ("a", "1", 1, "FAILED: 1 row failed in B"),
        ("b", "-1", 4, ""),
    ],
)
def test_rise_above_the_limit_is_exit_1(
    reports: Path, capsys: pytest.CaptureFixture[str], after: str, limit: str, code: int, said: str
) -> None:
    assert run("compare", "reports/c.json", f"reports/{after}.json", f"--fail-above={limit}") == code
    assert said in capsys.readouterr().out


def test_row_that_vanished_does_not_pass(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = example.document(real(rounds=3), run_id="run-9", created_at="2026-11-29T17:00:00Z")
    (reports / "z.json").write_bytes(report_bytes(made))
    assert run("compare", "reports/c.json", "reports/z.json", "--fail-above", "1") == 1
    assert "1 row of A not measured in B" in capsys.readouterr().out


def test_comparison_is_on_the_page_of_the_job(
    reports: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(reports / "summary.md"))
    assert run("compare", "reports/c.json", "reports/a.json", "--markdown") == 0
    told = capsys.readouterr().out

    assert told.startswith("### Protection overhead: B against A\n\n> [!CAUTION]\n> - failed in B: mlp-h100-30m")
    assert (reports / "summary.md").read_text("utf-8").strip() == told.strip()


def test_misspelt_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rendr", "x") == 4
    assert "there is no command 'rendr'; did you mean render?" in capsys.readouterr().err


def test_csv_ctrf_and_benchmarks_have_every_row(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("render", "reports/a.json", "--csv", "rounds") == 0
    head, *rounds = capsys.readouterr().out.splitlines()
    assert head.split(",")[:4] == ["runId", "createdAt", "gitCommit", "row"]
    assert len(rounds) == 6
    assert run("render", "reports/a.json", "--ctrf") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["results"]["summary"]["failed"] == 1
    assert [each["status"] for each in found["results"]["tests"]] == ["failed", "passed"]
    assert run("render", "reports/a.json", "--benchmark-json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["unit"], round(listed["value"], 2), listed["range"]) == ("% overhead", 1.17, "+1.08 to +1.27")


def test_spreadsheet_takes_no_name_for_a_formula(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = real()
    record["record"] |= {"name": "=HYPERLINK(0)"}
    (tmp_path / "r.json").write_bytes(report_bytes(example.document(record)))
    run("render", str(tmp_path / "r.json"), "--csv", "rounds")

    assert ",'=HYPERLINK(0)," in capsys.readouterr().out
