"""A report whose root is software is what it was before hardware could be one: byte for byte, signatures aside."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from pytest_glasshouse.publish.redact_published import resealed
from pytest_glasshouse.wire.canonical import canonical
from tests.unit.report import example

#: Written before processors could attest.
REPORTS = sorted((Path(__file__).parents[2] / "data" / "reports").glob("*.json"))


def unsigned(value: Any) -> Any:
    """Without the seals, which need the key of whoever wrote it."""
    if isinstance(value, dict):
        return {name: unsigned(each) for name, each in value.items() if name != "seal"}
    return [unsigned(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_an_older_software_report_is_made_again_byte_for_byte(path: Path) -> None:
    before = json.loads(path.read_text(encoding="utf-8"))
    again = resealed(copy.deepcopy(before), key=example.KEYS.report)
    assert again["attestationRoot"] == "software"
    again["keys"]["report"] = before["keys"]["report"]
    assert canonical(unsigned(again)) == canonical(unsigned(before))


def test_there_are_such_reports() -> None:
    assert len(REPORTS) >= 3
