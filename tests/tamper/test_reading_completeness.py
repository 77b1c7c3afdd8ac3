"""Every check of package opener and journal audit is load-bearing: take one away, and some case must notice.

Checks are found in the source (`removal`), so a new one without a case fails here. A case is a question with one answer;
it notices when the answer changes. `-s` prints how many checks and cases there are. Server: `test_completeness.py`; report:
`tests/report/test_completeness.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import pytest

from pytest_glasshouse.attestation import admission, server
from pytest_glasshouse.attestation import completion as server_completion
from pytest_glasshouse.errors import IntegrityError, RefusedError
from pytest_glasshouse.guest import opener
from pytest_glasshouse.invariants import (
    accounted,
    allocation,
    lifecycle,
    rank_checks,
    steps_seen,
    trained_alike,
    trust,
    turns,
    witnessed,
    work,
)
from pytest_glasshouse.invariants import verified as reading
from pytest_glasshouse.observation import training_trace
from pytest_glasshouse.tamper import completion, enrolment, evidence, package, release, session, tokens
from pytest_glasshouse.tamper import journal as log
from pytest_glasshouse.tamper.case import Case
from pytest_glasshouse.tamper.testbed import TamperTestbed
from pytest_glasshouse.wire import floe, journal
from pytest_glasshouse.wire import package as wire_package
from tests.tamper import reading_cases
from tests.tamper.removal import Ask, unnoticed_in


def _played(case: Case) -> object:
    with TamperTestbed() as testbed:
        try:
            case.play(testbed)
        except (RefusedError, IntegrityError) as refusal:
            return refusal.reason
    return "nothing refused"


def _of_suite(*cases: Case) -> dict[str, Ask]:
    return {case.name: partial(_played, case) for case in cases}


_CNF = [case for case in evidence.CASES if case.expected_reason == "cnf"]
ROOMS: dict[str, tuple[tuple[ModuleType, ...], Callable[[], dict[str, Ask]]]] = {
    "opener": (
        (floe, wire_package, opener),
        lambda: {
            **_of_suite(*package.CASES, *(case for case in release.CASES if case.expected_reason == "sealed")),
            **reading_cases.opener(),
        },
    ),
    "journal": ((journal,), lambda: {**_of_suite(*log.CASES), **reading_cases.journal()}),
    # Beside its `require` calls, which `test_completeness.py` takes away: what refuses where a value is missing.
    "server": (
        (admission, server, server_completion),
        lambda: _of_suite(*enrolment.CASES, *session.CASES, *completion.CASES, *tokens.CASES, *evidence.PUBLISHED, *_CNF),
    ),
    "audit": (
        (
            accounted,
            reading,
            lifecycle,
            rank_checks,
            trust,
            allocation,
            turns,
            witnessed,
            steps_seen,
            trained_alike,
            work,
            training_trace,
        ),
        reading_cases.judged_rounds,
    ),
}


@pytest.mark.parametrize("room", ROOMS)
def test_removal_of_any_check_of_a_room_is_detected(room: str) -> None:
    """A check that can be removed unnoticed protects nothing, or nothing proves that it does."""
    modules, cases = ROOMS[room]
    asks = cases()
    unnoticed, checks = unnoticed_in(asks, *modules)
    print(f"{room}: {checks} checks, {len(asks)} cases")  # noqa: T201  (the figures are part of what is shown)
    assert "\n".join(unnoticed) == ""
