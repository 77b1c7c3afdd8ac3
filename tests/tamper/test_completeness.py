"""Every check the server makes is load-bearing: take one away, and some tamper case must notice.

The checks are the `require` calls of the server's modules, found in their source, so a new one without a case fails here.
"""

from __future__ import annotations

import sys

import pytest

from pytest_glasshouse.attestation import verifier
from pytest_glasshouse.attestation.messages import require
from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.tamper.case import Case, attack
from pytest_glasshouse.tamper.suite import CASES
from pytest_glasshouse.tamper.testbed import TamperTestbed
from tests.tamper.server_checks import CHECKS, MODULES, Check, checks_of

#: Cases by the line that refused them when they were played for some check: where the next check's case is looked for first.
_REFUSED_AT: dict[tuple[str, int], set[str]] = {}


def _without(monkeypatch: pytest.MonkeyPatch, check: Check, refused_at: set[tuple[str, int]]) -> None:
    def require_all_but_one(holds: bool, reason: str, detail: str = "") -> None:
        caller = sys._getframe(1)
        line = caller.f_globals["__name__"], caller.f_lineno
        if line not in check.lines:
            if not holds:
                refused_at.add(line)
            require(holds, reason, detail)

    for module in MODULES:
        monkeypatch.setattr(module, "require", require_all_but_one)


def _notices(case: Case) -> bool:
    """The control is left out: what one check fewer refuses, all of them refuse."""
    try:
        with TamperTestbed() as testbed:
            return not attack(case, testbed, control_released=True).passed
    except GlasshouseError:
        return True  # the case could not even be played


# Here a library's warning is an error, and would refuse what only a check of ours refuses where it is none.
@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_some_case_detects_the_removal_of_a_check(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that can be removed unnoticed protects nothing, or nothing proves that it does."""
    refused_at: set[tuple[str, int]] = set()
    _without(monkeypatch, check, refused_at)
    here = {name for line in check.lines for name in _REFUSED_AT.get(line, ())}
    elsewhere = {name for names in _REFUSED_AT.values() for name in names} - here

    def unlikely(case: Case) -> tuple[bool, ...]:
        caught_by = case.caught_by or ""
        return (
            case.name not in here,
            case.expected_reason != check.reason,
            check.function not in caught_by,
            case.name in elsewhere,
        )

    for case in sorted(CASES, key=unlikely):
        refused_at.clear()
        noticed = _notices(case)
        for line in check.lines if noticed else refused_at:
            _REFUSED_AT.setdefault(line, set()).add(case.name)
        if noticed:
            return
    pytest.fail(f"no tamper case needs {check}")


def test_the_checks_are_found() -> None:
    """The list above is not empty because the source moved."""
    print(f"server: {len(CHECKS)} checks, {len(CASES)} cases")  # noqa: T201  (the figures are part of what is shown)
    assert len(checks_of(verifier)) >= 25
    assert {"_release", "find", "issue", "_challenge", "enrol", "register", "check_completion"} <= {c.function for c in CHECKS}


def test_every_step_of_appraisal_has_a_case() -> None:
    """Steps are numbered in the code, and cases name the step that catches them."""
    steps = {f"appraise {number}" for number in range(1, 13)}
    assert steps <= {case.caught_by for case in CASES}
