"""A row whose base is sealed has no raw leg: every command shows its lifecycle and its rate, and none an overhead."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.check.check import Checked, Level, check_bytes
from pytest_glasshouse.check.compare import compare
from pytest_glasshouse.check.gate import GatePolicy, Ruling, gate
from pytest_glasshouse.check.history import history
from pytest_glasshouse.check.history import lines as history_lines
from pytest_glasshouse.check.pooling import groups
from pytest_glasshouse.plugin.summary import summary
from pytest_glasshouse.publish.objections import Objection
from pytest_glasshouse.publish.redact_published import redact_document
from pytest_glasshouse.render.badge import badge
from pytest_glasshouse.render.comparison import lines as compared_lines
from pytest_glasshouse.render.markdown import markdown
from pytest_glasshouse.render.page import page
from pytest_glasshouse.report.bundle import bundle_bytes, report_bytes
from pytest_glasshouse.report.schema import schema_faults
from tests.unit.check.sealed_reports import DOCUMENT, LIES, of_row, sealed_report
from tests.unit.report import example

ROW = DOCUMENT["sealedRows"][0]
NOW = datetime(2026, 11, 28, 15, tzinfo=UTC)
SOUND = Checked(faults=(), level=Level.CONSISTENT, missing=(), rows=1, excluded=0)


@pytest.fixture(autouse=True)
def as_the_version_that_wrote_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded report was judged by revision 3 of the invariants; a gate that asks for a newer one is tried elsewhere."""
    monkeypatch.setattr("pytest_glasshouse.check.gate.newest", lambda: 3)


def on_a_gpu(document: dict[str, Any]) -> None:
    """As if it were no dry run; what is signed does not say so."""
    document["sealedRows"][0] |= {"dryRun": False, "publishable": True, "unpublishableBecause": []}


def test_a_real_report_with_such_a_row_has_no_fault() -> None:
    assert check_bytes(report_bytes(DOCUMENT)).faults == ()
    assert check_bytes(of_row(lambda _row: None)).faults == ()
    assert check_bytes(bundle_bytes(sealed_report(), key=example.KEYS.report)).faults == ()


def test_its_record_says_that_there_was_no_raw_leg_and_has_no_overhead() -> None:
    assert (ROW["base"], ROW["confidential"], ROW["order"]) == ("sealed", True, "protected-first")
    figures = {name for name in ROW if name != "observation"}
    assert not [name for name in figures if name.lower().startswith(("raw", "overhead", "verdict", "limit"))]
    assert [each["finding"] for each in ROW["findings"]] == ["held"] * 10
    judged = {each["invariant"] for each in ROW["findings"]}
    assert not judged & {"raw callback completed", "same work", "adapter digests distinct", "legs in order, not overlapping"}
    low, high = ROW["protectedPerSecCi95"]
    assert low < ROW["protectedPerSec"] < high
    assert DOCUMENT["summary"] | {"selected": 1, "measured": 0, "sealedMeasured": 1} == DOCUMENT["summary"]


@pytest.mark.parametrize("name", [name for name, (_, where) in LIES.items() if where])
def test_a_lie_about_such_a_row_shows(name: str) -> None:
    edit, where = LIES[name]
    faults = [str(fault) for fault in check_bytes(of_row(edit)).faults]
    assert any(fault.startswith("$.sealedRows[0]") and where in fault for fault in faults), faults


def test_an_overhead_cannot_be_added_to_such_a_row() -> None:
    """Its shape is closed: there is no place for one."""
    document = copy.deepcopy(DOCUMENT)
    document["sealedRows"][0]["overheadPct"] = 0.0
    assert any("overheadPct" in fault for fault in schema_faults(document))


def test_a_measured_row_cannot_be_passed_off_as_one_without_a_raw_leg(tmp_path: Path) -> None:
    """Who leaves out the raw leg leaves out the overhead that may be large; the signed plan says which rows have none."""
    faults = [str(fault) for fault in check_bytes(of_row(LIES["not planned as one"][0])).faults]
    assert any("no sealed base" in fault for fault in faults)


def test_the_gate_judges_everything_but_an_overhead() -> None:
    document = sealed_report(on_a_gpu)
    judged = gate(document, SOUND, GatePolicy(min_rounds=2, publishable=True, allow_dirty=True), now=NOW)
    assert (judged.ruling, judged.judged) == (Ruling.PASSED, 1), judged.objections
    assert gate(document, SOUND, GatePolicy(min_rounds=3), now=NOW).ruling is Ruling.FAILED
    assert gate(sealed_report(), SOUND, GatePolicy(), now=NOW).ruling is Ruling.NOTHING
    unpublishable = sealed_report(on_a_gpu)
    unpublishable["sealedRows"][0]["publishable"] = False
    assert gate(unpublishable, SOUND, GatePolicy(publishable=True), now=NOW).ruling is Ruling.FAILED


NOTE = "the limit on overhead does not apply to lora-anygpu-sealed: the base is sealed, so there is no raw leg; judged by the lifecycle"


def test_a_limit_on_overhead_does_not_apply_to_such_a_row_and_the_gate_says_so() -> None:
    """Another row is within it; the sealed one is judged by its lifecycle, as without a limit."""
    document, measured = sealed_report(on_a_gpu), example.document(example.publishable())
    measured["sealedRows"] = document["sealedRows"]
    without = gate(measured, SOUND, GatePolicy(max_overhead_pct=50.0, allow_dirty=True, allow_lenient_policy=True), now=NOW)
    # The other row is over it, so that there is a note about running again too.
    assert (without.notes[0], without.judged) == (NOTE, 2)
    assert not [each for each in without.objections if "sealed" in str(each)]
    broken = copy.deepcopy(measured)
    broken["sealedRows"][0]["publishable"] = False
    assert [
        each.path for each in gate(broken, SOUND, GatePolicy(max_overhead_pct=50.0, publishable=True), now=NOW).objections
        if each.path.startswith("$.sealedRows")
    ] == ["$.sealedRows[0].publishable"]  # fmt: skip


def test_a_report_of_such_rows_only_shows_nothing_about_an_overhead() -> None:
    judged = gate(sealed_report(on_a_gpu), SOUND, GatePolicy(max_overhead_pct=5.0), now=NOW)
    assert judged.ruling is Ruling.FAILED
    assert [str(each) for each in judged.objections] == [
        "$.rows: no row has an overhead to be at most 5 %: the base of every judged row is sealed"
    ]
    assert judged.notes == (NOTE,)
    assert gate(sealed_report(on_a_gpu), SOUND, GatePolicy(), now=NOW).notes == (), "nothing was limited"


def test_the_badge_says_that_there_is_no_overhead() -> None:
    assert badge(sealed_report(on_a_gpu), sound=True, max_overhead_pct=3.0).message == "none: base sealed"
    assert badge(sealed_report(), sound=True).message == "dry run"
    again = sealed_report(on_a_gpu)
    again["sealedRows"][0]["attempts"] = [{}]
    assert badge(again, sound=True).message == "1 row needed another attempt"


def test_a_gate_finds_such_a_row_where_it_is_required() -> None:
    policy = GatePolicy(rows=("lora-anygpu-sealed",))
    assert gate(sealed_report(on_a_gpu), SOUND, policy, now=NOW).ruling is Ruling.PASSED
    assert "a dry run" in str(gate(sealed_report(), SOUND, policy, now=NOW).objections[-1])


def test_comparing_and_history_put_rates_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(report_bytes(DOCUMENT))
    shown = "\n".join(history_lines(history(tmp_path)))
    assert "lora-anygpu-sealed on CPU" in shown
    assert "steps/s (95 % interval" in shown
    assert "sealed, no raw leg" in shown
    compared = "\n".join(compared_lines(compare(sealed_report(), sealed_report()), names=("a", "b")))
    assert compared.count("steps/s (95 % interval") == 2
    assert "base sealed: no overhead" in compared
    assert compare(sealed_report(), example.document(example.measured())).only_before == ("lora-anygpu-sealed",)


def test_a_pool_has_nothing_of_it() -> None:
    assert groups([sealed_report()]) == []


def test_page_markdown_terminal_and_badge_show_its_rate_and_no_overhead() -> None:
    document: Any = sealed_report()
    rate = "steps/s (95 % interval"
    lines = list(summary([{"list": "sealedRows", "record": ROW}], ()))
    assert lines[1].startswith("base sealed, no raw leg  rounds  protected rate")
    for text in (page(document, SOUND), markdown(document), "\n".join(lines)):
        assert "lora-anygpu-sealed" in text
        assert rate in text
        assert "10 of 10" in text
    assert "A raw leg would give it away".lower() in markdown(document).lower()
    assert badge(document, sound=True).message == "dry run"


def test_a_single_round_is_called_a_single_sample() -> None:
    def once(row: dict[str, Any]) -> None:
        row["protectedPerSecCi95"] = None

    document: Any = sealed_report(lambda document: once(document["sealedRows"][0]))
    assert "steps/s (single sample)" in markdown(document)


def test_such_a_row_is_withheld_as_any_other() -> None:
    """What is left says that its base was sealed, and nothing that was observed."""
    found = [Objection(path="$.sealedRows[0].observation", text="a key", rule="key")]
    document = redact_document(copy.deepcopy(DOCUMENT), found, run_id="r", key=example.KEYS.report, find=lambda _document: [])
    assert "sealedRows" not in document
    (row,) = document["excludedResults"]
    assert (row["base"], row["observation"], row["outcome"]) == ("sealed", {}, "error")
    assert list(schema_faults(json.loads(json.dumps(document)))) == []
