"""What a row is doing right now, as plain values for whoever draws it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.wire.canonical import Json


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One moment of a row. `fraction` is of the leg's target, `rate` in units per second; None where there is none yet."""

    row_id: str
    leg: str
    phase: str
    round: int
    rounds: int
    elapsed_s: float
    fraction: float | None = None
    rate: float | None = None

    def to_json(self) -> dict[str, Json]:
        """As a JSON object."""
        return asdict(self)
