"""Rows are on disk when they finish; a report is written whole or not at all; quarantined data is private."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.errors import ConfigurationError, RedactionError, ReportError
from pytest_glasshouse.publish.writer import PublishedFiles, publish
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.report.paths import bundle_path, check_writable
from pytest_glasshouse.report.row_journal import RowJournal
from pytest_glasshouse.report.run_key import TagKey
from tests.unit.report import example

PROOF = TagKey(example.KEYS.report, "20261120-170000-9f3c")


def published(document: Any, **given: Any) -> PublishedFiles:
    """By the example's own derivation."""
    return publish(document, **{"key": example.KEYS.report, "derivation": example.EXAMPLE, **given})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def leftovers(folder: Path) -> list[str]:
    return [each.name for each in folder.rglob("*") if each.name.startswith(".")]


def test_row_is_on_disk_when_append_returns(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "run", PROOF)
    records = [example.measured(), example.lost()]

    for record in records:
        journal.append(record)

    assert RowJournal(tmp_path / "run", PROOF).read() == records


def test_journal_is_for_its_owner_only(tmp_path: Path) -> None:
    """It is not yet redacted."""
    journal = RowJournal(tmp_path / "run", PROOF)
    journal.append(example.lost())

    assert (mode(journal.path), mode(journal.path.parent)) == (0o600, 0o700)


def test_incomplete_line_is_an_unfinished_row_and_spoils_no_other(tmp_path: Path) -> None:
    """A process killed while writing leaves half a line; the next one must not be glued to it."""
    journal = RowJournal(tmp_path / "run", PROOF)
    journal.append(example.measured())
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[: len(whole) // 2])

    journal.append(example.lost())

    assert [each["record"]["name"] for each in journal.read()] == ["mlp-h100-60s", "mlp-h100-lost"]


def test_later_record_of_a_row_replaces_the_earlier(tmp_path: Path) -> None:
    journal = RowJournal(tmp_path / "run", PROOF)
    journal.append(example.lost())
    later = example.lost()
    later["record"]["decision"] = "run again"
    journal.append(later)

    assert journal.read() == [later]


def test_journal_that_was_never_written_has_no_rows(tmp_path: Path) -> None:
    assert RowJournal(tmp_path / "run", PROOF).read() == []


def test_record_that_fits_no_report_is_still_journalled(tmp_path: Path) -> None:
    """It was paid for, and is withheld where the report is written."""
    journal = RowJournal(tmp_path / "run", PROOF)
    record: Any = {"list": "rows", "record": {"rowId": "a", "overheadPct": math.inf}}
    journal.append(record)

    records: Any = RowJournal(tmp_path / "run", PROOF).read()
    assert [each["record"]["overheadPct"] for each in records] == [math.inf]


def test_report_and_bundle_are_put_in_place(tmp_path: Path) -> None:
    document = example.document()

    done = published(document, report=tmp_path / "reports" / "run.json", run_directory=tmp_path / "run")

    assert json.loads(done.report.read_bytes()) == document
    assert done.bundle == tmp_path / "reports" / "run.glasshouse.zip"
    assert done.report.read_bytes() == report_bytes(document)
    assert leftovers(tmp_path) == []


def test_forbidden_value_stops_the_report_and_goes_to_the_quarantine(tmp_path: Path) -> None:
    sample = "https://abc-8000.proxy.runpod.net/"
    document = example.document(extra={"example/note": sample})
    report = tmp_path / "reports" / "run.json"

    with pytest.raises(RedactionError, match=r"\$\.extra") as caught:
        published(document, report=report, run_directory=tmp_path / "run")

    assert sample not in str(caught.value)
    assert not report.parent.exists()
    quarantined = tmp_path / "run" / "quarantine" / "report.json"
    assert json.loads(quarantined.read_bytes()) == document
    assert (mode(quarantined), mode(quarantined.parent), mode(tmp_path / "run")) == (0o600, 0o700, 0o700)


def test_tainted_value_stops_the_report(tmp_path: Path) -> None:
    document = example.document(extra={"example/note": "the word is opensesame"})

    with pytest.raises(RedactionError, match="rule taint"):
        published(document, report=tmp_path / "run.json", run_directory=tmp_path / "run", taint=["opensesame"])


def test_this_machines_directories_are_tainted(tmp_path: Path) -> None:
    document = example.document(extra={"example/note": f"in {tmp_path / 'run'}"})

    with pytest.raises(RedactionError, match="rule taint"):
        published(document, report=tmp_path / "run.json", run_directory=tmp_path / "run")


@pytest.mark.parametrize("change", [{"unknown": 1}, {"runId": None}, {"rows": [{}]}])
def test_report_that_does_not_validate_is_not_written(tmp_path: Path, change: dict[str, Any]) -> None:
    report = tmp_path / "reports" / "run.json"

    with pytest.raises(ReportError, match="does not validate"):
        published({**example.document(), **change}, report=report, run_directory=tmp_path / "run")

    assert not report.parent.exists()
    assert (tmp_path / "run" / "quarantine" / "report.json").exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("run.json", "run.glasshouse.zip"), ("run", "run.glasshouse.zip"), (".json", ".json.glasshouse.zip")]
)
def test_bundle_lies_beside_its_report(name: str, expected: str) -> None:
    assert bundle_path(Path("reports") / name) == Path("reports") / expected


def test_writable_path_is_not_changed_by_the_check(tmp_path: Path) -> None:
    path = check_writable(tmp_path / "reports" / "run.json")

    assert list(path.parent.iterdir()) == []


def test_report_path_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is a directory"):
        check_writable(tmp_path)


def test_report_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    with pytest.raises(ConfigurationError, match="cannot be written"):
        check_writable(tmp_path / "file" / "run.json")


def test_files_are_readable_by_others_only_where_published(tmp_path: Path) -> None:
    done = published(example.document(), report=tmp_path / "run.json", run_directory=tmp_path / "run")

    assert (mode(done.report), mode(Path(str(done.bundle)))) == (0o644, 0o644)
    assert not (tmp_path / "run").exists()


def test_report_whose_bundle_could_not_be_kept_is_refused(tmp_path: Path) -> None:
    """A bundle written into a pipe would be gone, and the report would name it."""
    os.mkfifo(tmp_path / "run.glasshouse.zip")

    with pytest.raises(ConfigurationError, match=r"run\.glasshouse\.zip, which lies beside the report, is not a regular file"):
        check_writable(tmp_path / "run.json")
