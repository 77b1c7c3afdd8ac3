"""The tamper suite: each case changes one thing and must be refused for one reason, with no key released."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.tamper import CASES, Case, run_case

if TYPE_CHECKING:
    from pytest_glasshouse.fixtures import RowReport


@pytest.mark.tamper
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_tamper(case: Case, row_report: RowReport) -> None:
    """Refused, for this reason and no other, and the same message without the mutation is released."""
    result = run_case(case)
    row_report.record_tamper(result)
    assert result.control_released, f"{case.name}: even the unchanged message was refused, so a refusal means nothing"
    expected = case.expected_reason or "nothing: released"
    seen = result.seen_reason or "nothing: released"
    assert expected == seen, f"{case.name}: expected refusal {expected}, saw {seen}; look at {case.caught_by}"
    assert result.released is (case.expected_reason is None), f"{case.name}: a {case.withheld} came out"
    assert result.expected_nonce == result.seen_nonce, f"{case.name}: the nonce is {result.seen_nonce}"
