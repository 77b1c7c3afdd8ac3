"""The table of all tamper cases on messages: the published scenarios and the control first. `case.run_case` plays one."""

from __future__ import annotations

from pytest_glasshouse.tamper import (
    completion,
    enrolment,
    evidence,
    hardware,
    journal,
    node_cases,
    observation,
    outstanding_query,
    package,
    processors,
    rank_cases,
    release,
    run_counts,
    session,
    tokens,
    transport,
    turns,
)
from pytest_glasshouse.tamper.case import Case

#: The case that must be released: the whole lifecycle without a mutation.
CONTROL = Case(
    name="control", play=lambda testbed: testbed.attempt().run_lifecycle(), expected_reason=None, caught_by=None, published=True
)
#: The nine published scenarios and the control, then all others.
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
    *run_counts.CASES,
    *outstanding_query.CASES,
    *journal.CASES,
    *observation.CASES,
    *turns.CASES,
    *rank_cases.CASES,
    *node_cases.CASES,
    *transport.CASES,
    *hardware.CASES,
    *processors.CASES,
)
