"""Which of several attempts stands for a row, and the entries of the others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pytest_glasshouse.check.check import check_bytes
from pytest_glasshouse.check.gate import GatePolicy, Ruling, gate
from pytest_glasshouse.errors import ReportError
from pytest_glasshouse.publish.objections import Objection, objections
from pytest_glasshouse.publish.redact_published import redact_document
from pytest_glasshouse.render.badge import badge
from pytest_glasshouse.render.markdown import markdown
from pytest_glasshouse.render.page import page
from pytest_glasshouse.report import attempts
from pytest_glasshouse.report.attempts import (
    NEEDED_MORE,
    attempt_faults,
    attempts_line,
    lost_attempt_entry,
    row_title,
    standing_place,
)
from pytest_glasshouse.report.bundle import report_bytes
from pytest_glasshouse.run.attempt_history import RowAttempts
from pytest_glasshouse.wire.evidence import TYP_RESULT
from pytest_glasshouse.wire.tokens import sign
from tests.unit.report import example
from tests.unit.report.tried_rows import AT, EDITS, NOW, slow, tried


def broken() -> Any:
    seen = example.observation(unseen=())
    seen["allocation"]["broken"] = ["runtime zeroized"]
    return example.publishable(observation=seen)


def published(record: Any) -> tuple[Any, Any]:
    document = example.assembled((record,))
    return document, check_bytes(report_bytes(document), derivation=example.EXAMPLE)


@pytest.mark.parametrize(
    ("records", "stands"),
    [
        ((slow(), example.publishable()), 0),
        ((example.publishable(), slow()), 0),
        ((None, example.publishable(), slow()), 1),
        ((example.publishable(), None), 0),
        ((broken(), example.publishable()), 0),
        ((example.publishable(), broken()), 1),
        ((example.publishable(), broken(), broken()), 1),
        ((None, example.lost()), 1),
        ((None, example.excluded(), example.publishable()), 1),
    ],
)
def test_no_later_attempt_takes_the_place_of_one_that_was_judged(records: tuple[Any, ...], stands: int) -> None:
    """Unless something broke in it: that takes the place of whatever was measured before."""
    record = tried(*records)["record"]
    assert [each["stands"] for each in record["attempts"]].index(True) == stands
    assert record["observation"] == records[stands]["record"]["observation"]
    assert (record["publishable"], NEEDED_MORE in record["unpublishableBecause"]) == (False, True)


def test_single_attempt_leaves_the_record_unchanged() -> None:
    record = example.publishable()
    assert tried(record) is record
    assert (attempts_line(record["record"]), list(attempt_faults(record["record"]))) == ("", [])


def test_attempt_without_a_record_cannot_stand() -> None:
    with pytest.raises(ReportError, match="attempt 2 of 2 at a row stands for it and left no record"):
        tried(None, None)


def test_report_of_a_row_tried_twice_follows_from_itself_and_passes_no_gate() -> None:
    """Whatever the policy asks for; and nothing that shows the row shows it without its attempts."""
    for records, ruling in (
        ((slow(), example.publishable()), Ruling.FAILED),
        ((example.publishable(), broken()), Ruling.NOTHING),
    ):
        document, checked = published(tried(*records))
        assert checked.faults == ()
        gated = gate(document, checked, GatePolicy(allow_lenient_policy=True), now=NOW)
        assert gated.ruling in {ruling, Ruling.FAILED}
        (objection,) = [str(each) for each in gated.objections if each.path.endswith(".attempts")]
        assert "needed more than one attempt: attempt" in objection
        assert badge(document, sound=True).colour == "#b3261e"
        for text in (markdown(document), page(document, checked)):
            assert "+5.49 %" in text or "+1.05 %" in text
            assert "of 2 stands" in text


def test_lifecycles_of_every_attempt_are_counted() -> None:
    document, _ = published(tried(broken(), example.publishable()))
    assert (document["summary"]["lifecycle"]["held"], document["summary"]["lifecycle"]["attempted"]) == (1, 2)


@pytest.mark.parametrize("name", EDITS)
def test_attempts_that_do_not_follow_are_named(name: str) -> None:
    edit, path = EDITS[name]
    row = copy.deepcopy(tried(slow(), example.publishable())["record"])
    assert list(attempt_faults(row)) == []
    edit(row)
    assert path in [found for found, _ in attempt_faults(row)]


@pytest.mark.parametrize(("place", "counted", "known", "faulty"), [
    ("embedded", 2, 1, True), ("embedded", 2, 2, False), ("embedded", 1, 2, False), ("embedded", 3, 2, True), ("outside", 9, 1, False),
])  # fmt: skip
def test_attempts_counted_by_the_server_and_missing_in_the_report_are_a_fault(
    place: str, counted: int, known: int, faulty: bool
) -> None:
    """A server of the run's own process serves nothing else; one outside counts other runs too."""
    seen = example.observation(unseen=())
    seen["keys"]["attestationServer"] = place
    seen["rounds"][0]["protected"]["result"] = sign({"attempt": counted}, key=example.KEYS.server, typ=TYP_RESULT)
    record = tried(*[None] * (known - 1), example.publishable(observation=seen))["record"]
    assert [path for path, _ in attempt_faults(record)] == [".attempts"] * faulty


@pytest.mark.parametrize("result", [None, 7, "no token", "a.b.c"])
def test_invalid_attestation_result_has_no_attempt_count(result: object) -> None:
    seen = example.observation()
    seen["rounds"][0]["protected"]["result"] = result
    assert attempts.server_attempt(seen) is None


def test_row_that_is_withheld_keeps_its_attempts() -> None:
    """What may not be published is masked in them, and they follow from the row that is left."""
    document, _ = published(tried(broken(), example.publishable()))
    document["excludedResults"][0]["attempts"][0]["notHeld"][0]["reason"] = "a-secret"
    paths = ("$.excludedResults[0].attempts[0].notHeld[0].reason", "$.excludedResults[0].observation.plan")
    found = [Objection(path=path, text="rule taint", rule="taint") for path in paths]
    again = redact_document(
        document, found, run_id="run-1", key=example.KEYS.report,
        find=lambda each: objections(each, taint=["a-secret"], derivation=example.EXAMPLE),
    )  # fmt: skip
    assert "a-secret" not in report_bytes(again).decode()
    assert [each["outcome"] for each in again["excludedResults"][0]["attempts"]] == ["failed", "measured"]
    assert check_bytes(report_bytes(again), derivation=example.EXAMPLE).faults == ()


def test_null_row_tried_twice_shows_both_differences() -> None:
    record = tried(example.null_row(), example.null_row())["record"]
    assert [round(each["differencePct"], 3) for each in record["attempts"]] == [round(record["differencePct"], 3)] * 2
    assert "publishable" not in record
    document, checked = published(tried(example.null_row(), example.null_row()))
    assert [path for path in map(str, checked.faults) if "attempts" in path] == []
    assert "of 2 stands" in markdown(document)


def test_title_names_the_other_parameters() -> None:
    row: Any = {"name": "mine"}
    assert row_title(row) == "mine"
    row["parameters"] = {"batch": "1", "lr": "0.1"}
    assert row_title(row) == "mine[batch=1, lr=0.1]"


def test_last_attempt_stands_where_none_was_judged() -> None:
    assert standing_place([lost_attempt_entry(), lost_attempt_entry()]) == 1


# -- what a run of pytest is notified of


def attempt_record(name: str, record: Any = None) -> Any:
    return {"attempt": name, "at": AT, "record": record}


def test_attempt_reported_repeatedly_is_counted_once() -> None:
    record: Any = {"list": "rows"}
    found = RowAttempts()
    found.start()
    assert (found.begin(attempt_record("a")), found.begin(attempt_record("a"))) == (True, False)
    assert (found.update(attempt_record("a", record)), found.update(attempt_record("a", record))) == (True, False)
    assert (found.finish(attempt_record("a")), found.finish(attempt_record("a"))) == (True, False)
    assert found.all() == [(AT, record)]


def test_start_without_a_later_report_is_an_attempt() -> None:
    """A worker that died at once; the next one's attempt is another."""
    found = RowAttempts()
    found.start()
    found.start()
    found.begin(attempt_record("b"))
    assert found.all() == [("", None), (AT, None)]


def test_attempt_reported_before_its_start_is_one_attempt() -> None:
    """A worker's message and its test's start arrive on different paths."""
    found = RowAttempts()
    found.begin(attempt_record("a"))
    found.start()
    assert len(found.all()) == 1
    found.begin(attempt_record("retried in the same test"))
    found.start()
    assert len(found.all()) == 2
