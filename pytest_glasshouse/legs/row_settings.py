"""What a run decides about one row, beyond the row itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_glasshouse.legs.model_sources import ModelSources

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.legs.attestation import OutsideServer
    from pytest_glasshouse.observation.document import Observation, SamplingPlan
    from pytest_glasshouse.observation.outcome import Outcome
    from pytest_glasshouse.owner.policy import Policy
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.run_plan import PlannedRow


@dataclass(frozen=True, kw_only=True)
class RowSettings:
    """Settings of the run for one row. `declared` is the row as its test declares it, before options changed it."""

    declared: RowSpec
    run_id: str
    seed: int
    fixed_order: bool = False
    leg_timeout_s: float | None = None
    model: str | None = None
    """Where the row's model lies, if not where the row says."""
    model_sources: ModelSources = field(default_factory=ModelSources)
    """How the row's model reaches the guest."""
    stand_in: str | None = None
    """The shape of the random weights that take the model's place, where the user wants some."""
    owner_key: Path | None = None
    """The owner's key file, by which a model that was sealed ahead is opened."""
    confidential: bool = False
    strict_memory: bool = False
    subject: dict[str, Any] = field(default_factory=dict)
    server: OutsideServer | None = None
    """The attestation server; None for the one of this process."""
    policy: Policy | None = None
    """The owner's policy file, enforced on every allocation beside the host's own requirements."""
    revision: int | None = None
    """The revision of the invariants that will judge. The plan names it, so that no older one can judge later."""
    planned: tuple[PlannedRow, ...] = ()
    """Every row of the run, as the attestation server is told before the first key; this row alone where there are none."""
    half_width_pct: float | None = None
    """The half width of the interval a row is extended to after its first rounds, once, to at most `max_rounds` in all."""
    max_rounds: int = 0
    looks: SamplingPlan | None = None
    """The looks after which a row may end, as its plan names them."""
    rounds_in_all: Callable[[Observation], tuple[int, int | None]] | None = None
    """Decides from the observation so far how many rounds the row gets in all, and the pairs of later ones (None: as planned)."""
    on_round: Callable[[Outcome], None] | None = None
    """Called after each round of an interleaved row but the last, with the row's outcome if it ended there."""
