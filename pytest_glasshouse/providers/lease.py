"""One allocation as this project records it: its name, its state, and its price.

The name has the run and the deadline, so a listing is enough to end what was left behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

NAME_PREFIX = "glasshouse-"
_NAME = re.compile(rf"{NAME_PREFIX}(?P<run>[A-Za-z0-9-]{{1,32}})-(?P<number>\d{{1,4}})-(?P<deadline>\d{{10}})", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class ParsedName:
    """The parts of an allocation's name."""

    run_id: str
    number: int
    deadline: int

    def __str__(self) -> str:
        return f"{NAME_PREFIX}{self.run_id}-{self.number}-{self.deadline}"


def parse_name(name: str) -> ParsedName | None:
    """The parts of `name`; None where it is not this project's."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return ParsedName(run_id=found["run"], number=int(found["number"]), deadline=int(found["deadline"]))


@dataclass(kw_only=True)
class Lease:
    """One name and the instances under it: more than one where a create's answer was lost."""

    name: str
    provider: str
    #: The price in USD per hour, and since when it counts (wall clock): from the intent, as the provider may bill from then.
    price_usd_per_hour: float = 0.0
    intent_at: float = 0.0
    #: In seconds since 1970, as in the name.
    deadline: float = 0.0
    instance_ids: set[str] = field(default_factory=set)
    #: Whether a listing showed it while it ran: without that, its absence from a listing proves nothing.
    seen_listed: bool = False
    #: The answer to the create request was lost: whether the instance exists is not known.
    ambiguous: bool = False
    #: The provider answered that nothing was created.
    void: bool = False
    #: The provider accepted its end; when it first answered that there is none; when that was proven.
    ended: bool = False
    quiet_at: float | None = None
    #: Since when it runs; what it did before, in a queue, costs nothing. Its GPUs.
    started_at: float | None = None
    gpus: int = 1
    gone_at: float | None = None
    problem: str = ""

    @property
    def over(self) -> bool:
        """Whether it can cost nothing more."""
        return self.void or self.gone_at is not None

    def gpu_hours(self, now: float) -> float:
        """Its GPU-hours until `now`, counted from when it ran until the provider answered that there is none."""
        if self.void or self.started_at is None:
            return 0.0
        until = next((at for at in (self.quiet_at, self.gone_at) if at is not None), now)
        return max(until - self.started_at, 0.0) / 3600 * self.gpus

    def cost_usd(self, now: float) -> float:
        """Its cost until `now`, counted from the intent until the provider answered that there is none."""
        if self.void:
            return 0.0
        until = next((at for at in (self.quiet_at, self.gone_at) if at is not None), now)
        return max(until - self.intent_at, 0.0) / 3600 * self.price_usd_per_hour
