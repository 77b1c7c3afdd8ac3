"""`glasshouse init` gives a repository its first row, and replaces nothing."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

from pytest_glasshouse.check.gate_policy import read_table
from pytest_glasshouse.cli.main import main
from pytest_glasshouse.rows import ALL_ROWS, PUBLISHED_ROWS, SMOKE_ROWS


def test_repository_gets_a_row_the_gate_and_workflows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path)]) == 0
    told = capsys.readouterr().out

    assert (tmp_path / ".gitignore").read_text("utf-8") == "reports/\n"
    assert read_table(tmp_path / "pyproject.toml", required=True).source
    ast.parse((tmp_path / "rows" / "test_rows.py").read_text("utf-8"))
    workflows = sorted(path.name for path in (tmp_path / ".github" / "workflows").iterdir())
    assert workflows == [f"glasshouse-{name}.yml" for name in ("nightly", "pull-request", "release", "site", "sweeper")]
    texts = [path.read_text("utf-8") for path in (tmp_path / ".github" / "workflows").iterdir()]
    assert not [text for text in texts if "benchmarks/" in text]
    assert "next:\n  pytest rows" in told
    written = [line.split()[-1] for line in told.splitlines() if line.startswith("written")]
    assert len(written) == 8
    assert all(Path(path).is_file() for path in written)


def test_what_is_there_stays_and_what_is_missing_is_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "test_rows.py").write_text("mine = 1\n", "utf-8")
    (tmp_path / ".gitignore").write_text("*.pyc", "utf-8")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"', "utf-8")
    assert main(["init", str(tmp_path), "--no-workflows"]) == 0
    first = capsys.readouterr().out

    assert (tmp_path / "rows" / "test_rows.py").read_text("utf-8") == "mine = 1\n"
    assert (tmp_path / ".gitignore").read_text("utf-8") == "*.pyc\nreports/\n"
    tables = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))
    assert (tables["project"]["name"], tables["tool"]["glasshouse"]["gate"]["min-rounds"]) == ("mine", 5)
    assert not (tmp_path / ".github").exists()
    assert "kept     " in first
    assert main(["init", str(tmp_path), "--no-workflows"]) == 0
    assert capsys.readouterr().out.count("kept     ") == 3


def test_project_file_that_is_no_toml_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").write_text("[", "utf-8")
    assert main(["init", str(tmp_path)]) == 4
    assert "expected TOML" in capsys.readouterr().err
    assert (tmp_path / "pyproject.toml").read_text("utf-8") == "["


def test_published_grid_can_be_imported() -> None:
    assert set(PUBLISHED_ROWS) < set(ALL_ROWS)
    assert len(SMOKE_ROWS) == 6
    assert all(row.published is not None for row in PUBLISHED_ROWS)
