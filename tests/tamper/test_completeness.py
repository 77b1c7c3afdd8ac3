"""Every check the server makes is load-bearing: take one away, and some tamper case must notice.

The checks are the `require` calls of the server's modules, found in their source, so a new one without a case fails here.
"""

from __future__ import annotations

import sys

import pytest

from pytest_glasshouse.attestation import verifier
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.tamper.case import Case, run_case
from pytest_glasshouse.tamper.suite import CASES
from tests.tamper.server_checks import CHECKS, MODULES, Check, checks_of


def _without(monkeypatch: pytest.MonkeyPatch, check: Check) -> None:
    def require_all_but_one(holds: bool, reason: str, detail: str = "") -> None:
        caller = sys._getframe(1)
        here = caller.f_globals["__name__"] == check.module.__name__ and check.first <= caller.f_lineno <= check.last
        if not here:
            require(holds, reason, detail)

    for module in MODULES:
        monkeypatch.setattr(module, "require", require_all_but_one)


def _notices(case: Case) -> bool:
    try:
        return not run_case(case).passed
    except GlasshouseError:
        return True  # the case could not even be played


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_some_case_detects_the_removal_of_a_check(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that can be removed unnoticed protects nothing, or nothing proves that it does."""
    _without(monkeypatch, check)
    likely = sorted(CASES, key=lambda case: (case.expected_reason != check.reason, check.function not in (case.caught_by or "")))
    assert any(_notices(case) for case in likely), f"no tamper case needs {check}"


def test_the_checks_are_found() -> None:
    """The list above is not empty because the source moved."""
    print(f"server: {len(CHECKS)} checks, {len(CASES)} cases")  # noqa: T201  (the figures are part of what is shown)
    assert len(checks_of(verifier)) >= 25
    assert {"_release", "find", "issue", "_challenge", "enrol", "register", "check_completion"} <= {c.function for c in CHECKS}


def test_every_step_of_appraisal_has_a_case() -> None:
    """Steps are numbered in the code, and cases name the step that catches them."""
    steps = {f"appraise {number}" for number in range(1, 13)}
    assert steps <= {case.caught_by for case in CASES}
