"""The cheat suite: each case is one lie about a leg's work or time, which a finding must name.

Signed accounts first, in which everything but the lie is as it should be; then real legs, on a guest whose archive tells the lie
and which the policy trusts. What no finding sees is seen where the leg is trained again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_glasshouse.attacks.lying_legs import LEGS, LyingGuest, LyingLeg, LyingLegs, archive_of_all
from pytest_glasshouse.cli.replay import replay
from pytest_glasshouse.tamper.case import Case, run_case
from pytest_glasshouse.tamper.cheats import CASES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.observation.document import Observation
    from pytest_glasshouse.plugin.fixtures import RowReport


@pytest.mark.cheat
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_cheat(case: Case, row_report: RowReport) -> None:
    """Found, by this finding and no other, and the same account without the lie holds."""
    result = run_case(case)
    row_report.record_tamper(result)
    assert result.passed, f"{case.name}: expected {case.expected_reason} to break; saw {result}"


@pytest.fixture(scope="module", name="legs")
def legs_that_lie() -> Iterator[LyingLegs]:
    """One guest for all of them, started when the first case needs it."""
    with LyingGuest(archive_of_all()) as guest:
        yield LyingLegs(guest)


def _others(observation: Observation) -> list[str]:
    """The legs that did other work than they report, by training all of them again."""
    document: Any = {"rows": [{"rowId": "cheat", "observation": observation}], "nullRows": []}
    found = [each for each in replay(document, 2) if not each.equal]
    assert all("did not train what it reports" in each.reason for each in found), found
    return [each.leg for each in found]


@pytest.mark.cheat
@pytest.mark.parametrize("case", LEGS, ids=[case.name for case in LEGS])
def test_lying_leg(case: LyingLeg, legs: LyingLegs, row_report: RowReport) -> None:
    """A real leg that lies is named, and a row of such legs without a lie is believed."""
    result = legs.play(case, others=_others)
    row_report.record_tamper(result)
    assert result.passed, f"{case.name}: expected {case.seen_by}; saw {result}"
