"""The tamper suite: each case changes one thing and must be refused for one reason, with no key released."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from pytest_glasshouse.attacks import code_injection
from pytest_glasshouse.attacks.guest_case import GuestCase, run_guest_case
from pytest_glasshouse.attacks.local_attacker import NotPlayedError
from pytest_glasshouse.attacks.target_guest import TargetGuests
from pytest_glasshouse.tamper.case import Case, run_case
from pytest_glasshouse.tamper.result import TamperResult
from pytest_glasshouse.tamper.suite import CASES

if TYPE_CHECKING:
    from pytest_glasshouse.plugin.fixtures import RowReport


def _judge(case: Case | GuestCase, result: TamperResult) -> None:
    assert result.passed, (
        f"{case.name}: expected the refusal {case.expected_reason or 'none (released)'}, the {case.asset} not released and the "
        f"nonce {result.expected_nonce}; saw {result}; look at {case.caught_by}"
    )


@pytest.mark.tamper
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_tamper(case: Case, row_report: RowReport) -> None:
    """Refused, for this reason and no other, and the same message without the mutation is released."""
    result = run_case(case)
    row_report.record_tamper(result)
    _judge(case, result)


@pytest.fixture(scope="module", name="guests")
def shared_guests() -> Iterator[TargetGuests]:
    """Guests on this machine, started when the first case needs them."""
    guests = TargetGuests()
    yield guests
    guests.close()


@pytest.mark.tamper
@pytest.mark.parametrize("case", code_injection.CASES, ids=[case.name for case in code_injection.CASES])
def test_what_executes(case: GuestCase, guests: TargetGuests, row_report: RowReport) -> None:
    """The same against a real agent and a real leg: planted code gets no key, never runs, or is seen."""
    try:
        result = run_guest_case(case, guests)
    except NotPlayedError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"not played: {error}")
    row_report.record_tamper(result)
    _judge(case, result)
