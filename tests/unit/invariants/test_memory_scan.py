"""What a memory scan must have looked for before its silence counts."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from pytest_glasshouse.invariants.finding import Finding
from pytest_glasshouse.invariants.lifecycle import memory_scanned_clean
from pytest_glasshouse.invariants.revisions import judge_as
from tests.unit.check.sealed_reports import PATH

#: Of a row whose base is sealed, from before anybody looked for its weights.
SEALED: Any = json.loads(PATH.read_text(encoding="utf-8"))["sealedRows"][0]["observation"]


def found(observation: Any) -> tuple[str, str]:
    finding = memory_scanned_clean(observation)
    return finding.finding, finding.reason


def test_a_scan_that_did_not_look_for_a_sealed_model_s_weights_has_not_seen_that_they_are_gone() -> None:
    finding, reason = found(SEALED)
    assert finding == "unseen"
    assert reason.endswith("the scan's control did not find every weights")


def test_a_row_whose_base_is_public_has_no_weights_to_look_for() -> None:
    public = copy.deepcopy(SEALED)
    del public["plan"]["base"]
    assert found(public)[0] == "held"


@pytest.mark.parametrize("revision", [1, 2, 3])
def test_an_older_report_is_judged_as_it_was(revision: int) -> None:
    judged: dict[str, Finding] = {each.invariant: each for each in judge_as(SEALED, revision)}
    assert judged["memory scanned clean"].finding == "held"
