"""The cheat suite: each case is a leg's validly signed account with one lie about its work or time, which a finding must name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.tamper.case import Case, run_case
from pytest_glasshouse.tamper.cheats import CASES

if TYPE_CHECKING:
    from pytest_glasshouse.plugin.fixtures import RowReport


@pytest.mark.cheat
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_cheat(case: Case, row_report: RowReport) -> None:
    """Found, by this finding and no other, and the same account without the lie holds."""
    result = run_case(case)
    row_report.record_tamper(result)
    assert result.passed, f"{case.name}: expected {case.expected_reason} to break; saw {result}"
