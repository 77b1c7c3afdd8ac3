"""The outcome of a row that was carried out: plain facts, nothing judged and nothing computed.

Findings are computed by `invariants`, figures by `observation.results` and `overhead`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pytest_glasshouse.observation.document import Observation
from pytest_glasshouse.rows.spec import RowSpec

EndedAs = Literal["excluded", "failed", "error", "lost", "infrastructure"]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a row ended early: what happened, and what was decided about it."""

    outcome: EndedAs
    reason: str
    decision: str


@dataclass(frozen=True, kw_only=True)
class AllocationFacts:
    """The allocation both legs ran on. `gpu_model` is what was there, never what the row names."""

    provider: str
    provider_instance_id: str
    name: str
    gpu_model: str
    gpu_uuid: str | None
    dry_run: bool
    simulated: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One row carried out. `row` is what ran, `declared` what the test declares; `ended` is None when all rounds completed.

    `observation` is JSON as the spool, the journal, the receipts and the provider gave it, and goes into the report verbatim.
    """

    row: RowSpec
    declared: RowSpec
    allocation: AllocationFacts | None
    observation: Observation = field(default_factory=Observation)
    ended: Ended | None = None
