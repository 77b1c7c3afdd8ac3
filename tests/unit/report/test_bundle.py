"""One bundle per report: the same bytes every time, nothing in it that the report does not give."""

from __future__ import annotations

import json

import pytest

from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.observation.outcome import Ended, Outcome
from pytest_glasshouse.report.bundle import bundle_bytes, bundle_members, members, report_bytes
from tests.unit.report import example
from tests.unit.report.archives import archive

DOCUMENT = example.document()


def test_bundle_depends_on_nothing_but_the_report() -> None:
    assert bundle_bytes(DOCUMENT) == bundle_bytes(json.loads(report_bytes(DOCUMENT)))


def test_bundle_holds_the_files_that_can_be_verified_on_their_own() -> None:
    (row,) = DOCUMENT["rows"]
    below = {name.removeprefix(f"rows/{row['rowId']}/round-1/") for name in members(DOCUMENT)}

    assert {"journal.jsonl", "evidence.jws", "result.jws", "receipt.jws", "head.jws", "exit.jws", "manifest.jws"} <= below
    assert {"policy.json", "raw-callback.json", "raw-exit.jws", "report.json", "keys/report.pub", "keys/server-1.pub"} <= below


def test_journal_in_the_bundle_is_the_one_that_was_signed() -> None:
    (row,) = DOCUMENT["rows"]
    lines = members(DOCUMENT)[f"rows/{row['rowId']}/round-1/journal.jsonl"].decode().splitlines()

    assert lines == row["observation"]["rounds"][0]["protected"]["journal"]


def test_row_without_an_observation_has_no_files() -> None:
    document = example.document(example.lost())

    assert not [name for name in members(document) if name.startswith("rows/")]


def test_round_that_stopped_half_way_has_the_files_it_got_to() -> None:
    observation = example.observation()
    observation["rounds"][0] |= {"raw": None, "protected": {"manifest": observation["rounds"][0]["protected"]["manifest"]}}
    ended = Ended(outcome="lost", reason="the guest is gone", decision="run it again")
    outcome = Outcome(
        row=example.row(), declared=example.row(), allocation=example.allocation(), observation=observation, ended=ended
    )
    document = example.document(example.record_of(outcome, rounds=(), findings=()))

    names = [name.rpartition("/")[2] for name in members(document) if name.startswith("rows/")]

    assert names == ["observation.json", "manifest.jws"]


def test_bundle_reads_back() -> None:
    assert bundle_members(bundle_bytes(DOCUMENT)) == members(DOCUMENT)


@pytest.mark.parametrize("data", [b"PK nonsense", archive(("other", b"")), bundle_bytes(DOCUMENT)[:-40]])
def test_file_that_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(ReportError, match="the bundle"):
        bundle_members(data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_named_twice_is_refused() -> None:
    with pytest.raises(ReportError, match="twice"):
        bundle_members(archive(("report.json", b"{}"), ("report.json", b"{}")))


def test_leg_without_callback_and_exit_has_no_files_of_them() -> None:
    """A raw leg that never came back, beside a protected leg that did."""
    observation = example.observation()
    observation["rounds"][0]["raw"] = {"callback": None, "exit": ""}
    ended = Ended(outcome="excluded", reason="the guest is gone", decision="run it again")
    outcome = Outcome(
        row=example.row(), declared=example.row(), allocation=example.allocation(), observation=observation, ended=ended
    )
    names = [name.rpartition("/")[2] for name in members(example.document(example.record_of(outcome, rounds=(), findings=())))]

    assert "receipt.jws" in names
    assert not {"raw-exit.jws", "raw-callback.json"} & set(names)
