"""The tamper suite: proof that each check bites. `CASES` is the table, `run_case` plays one of them."""

from __future__ import annotations

from pytest_glasshouse.tamper import (
    completion,
    enrolment,
    evidence,
    hardware,
    package,
    release,
    session,
    tokens,
    transport,
    turns,
)
from pytest_glasshouse.tamper import journal as log
from pytest_glasshouse.tamper import observation as audit
from pytest_glasshouse.tamper import outstanding_query as question
from pytest_glasshouse.tamper.case import Case, TamperResult, run_case

#: The one that must be released: the whole lifecycle with nothing changed.
CONTROL = Case(
    name="control", play=lambda stage: stage.attempt().live_through(), expected_reason=None, caught_by=None, published=True
)
#: The nine published scenarios and the control, then the rest of the table.
CASES: tuple[Case, ...] = (
    *evidence.PUBLISHED,
    *session.PUBLISHED,
    CONTROL,
    *evidence.CASES,
    *session.CASES,
    *tokens.CASES,
    *enrolment.CASES,
    *release.CASES,
    *package.CASES,
    *completion.CASES,
    *question.CASES,
    *log.CASES,
    *audit.CASES,
    *turns.CASES,
    *transport.CASES,
    *hardware.CASES,
)

__all__ = ["CASES", "CONTROL", "Case", "TamperResult", "run_case"]
