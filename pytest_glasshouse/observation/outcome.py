"""What carrying a row out leaves behind: plain facts, nothing judged and nothing computed.

This module knows how a row ended and what was seen; it refuses to know what that means. Findings are the
`invariants` room's, figures are `legs.results`' and `overhead`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pytest_glasshouse.rows.spec import RowSpec

EndedAs = Literal["excluded", "failed", "error", "lost", "infrastructure"]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a row ended that was not measured in full: what happened, and what was decided about it."""

    outcome: EndedAs
    reason: str
    decision: str


@dataclass(frozen=True, kw_only=True)
class AllocationFacts:
    """Where both legs really ran. `gpu_model` is what was there, never what the row names."""

    provider: str
    provider_instance_id: str
    name: str
    gpu_model: str
    gpu_uuid: str | None
    dry_run: bool
    simulated: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row carried out. `row` is what ran, `declared` what the test says; `ended` is None when all rounds completed.

    `observation` is JSON as the spool, the journal, the receipts and the provider gave it, and goes into the report verbatim.
    """

    row: RowSpec
    declared: RowSpec
    allocation: AllocationFacts | None
    observation: dict[str, Any] = field(default_factory=dict)
    ended: Ended | None = None
