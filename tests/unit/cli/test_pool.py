"""`glasshouse pool`: its exit codes, and its message for too few allocations."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_glasshouse.cli.main import main
from pytest_glasshouse.report.bundle import report_bytes
from tests.unit.report import example


def written(directory: Path, *names: str) -> list[str]:
    paths = []
    for name in names:
        path = directory / f"{name}.json"
        # A row that never ran needs no real observation, and `check` finds no fault in it.
        path.write_bytes(report_bytes(example.document(example.lost(), run_id=name, cleanup=())))
        paths.append(str(path))
    return paths


def test_reports_without_measured_rows_are_not_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pool", *written(tmp_path, "a", "b", "c")]) == 5
    assert "expected three allocations" in capsys.readouterr().out


def test_faulty_report_is_not_pooled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = written(tmp_path, "a")
    text = Path(path).read_text("utf-8")
    Path(path).write_text(text.replace('"lost": 1', '"lost": 0', 1), "utf-8")

    assert main(["pool", path]) == 1
    assert "nothing was pooled" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["pool"], ["pool", "nowhere.json"], ["pool", "--margin", "0", "x.json"]])
def test_command_line_that_cannot_be_used_is_exit_4(arguments: list[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code == 4
