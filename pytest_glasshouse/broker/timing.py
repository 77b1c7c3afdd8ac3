"""Timeouts and intervals for each kind of provider, and the clock they are measured with.

Providers differ in how often they may be asked and in how long their listings lag.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import Provider


@dataclass(frozen=True, kw_only=True)
class Clock:
    """The clock as an argument: `monotonic` and `wall` in seconds, `wait(seconds)` sleeps."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    wait: Callable[[float], None] = time.sleep

    def wait_unless(self, stop: threading.Event, seconds: float) -> bool:
        """Wait, but no longer than until `stop` is set; returns whether it is."""
        if self.wait is time.sleep:
            return stop.wait(seconds)
        self.wait(seconds)
        return stop.is_set()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds. A proof takes at least `looks` clean looks spread over `settle_s`, and gives up after `give_up_s`.

    An ambiguous create is searched by name for `search_s` from its intent on: listings of real providers lagged by 35 to 178 s.
    """

    poll_s: float
    search_s: float
    settle_s: float
    give_up_s: float
    looks: int = 3
    bootstrap_s: float = 300.0
    #: How long ending takes: the budget counts as reached this long before it is spent.
    reserve_s: float = 30.0
    #: The longest life of an allocation; the deadline that follows from it is part of its name.
    lifetime_s: float = 24 * 3600.0
    #: How long after a lease's deadline the reaper leaves its end to the run.
    overdue_s: float = 30.0
    #: How long after the last deadline the reaper goes on.
    grace_s: float = 24 * 3600.0

    def to_json(self) -> str:
        """As JSON, for another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Timing:
        """What `to_json` wrote."""
        return cls(**json.loads(text))


#: Allocations that are processes of this machine: the process table does not lag.
LOCAL = Timing(poll_s=0.05, search_s=5.0, settle_s=0.0, give_up_s=2.0, looks=1, bootstrap_s=60.0, reserve_s=0.0)
RENTED = Timing(poll_s=5.0, search_s=180.0, settle_s=60.0, give_up_s=300.0)
#: Machines of the user's own: a listing is what is there now.
OWNED = Timing(poll_s=1.0, search_s=20.0, settle_s=1.0, give_up_s=60.0, looks=2, bootstrap_s=300.0, reserve_s=0.0)
#: An engine with a queue: its listing is what is there now, and the end of a job takes its time.
QUEUED = Timing(poll_s=5.0, search_s=60.0, settle_s=5.0, give_up_s=300.0, looks=2, bootstrap_s=300.0, reserve_s=0.0)
#: Providers that refuse more than one request to an endpoint every few seconds.
RENTED_SLOW = Timing(poll_s=10.0, search_s=180.0, settle_s=60.0, give_up_s=300.0)
#: A simulated provider: the same steps, and no lag to wait for.
SIMULATED = Timing(poll_s=0.2, search_s=4.0, settle_s=1.0, give_up_s=20.0, bootstrap_s=60.0, reserve_s=1.0)


def timing_of(provider: Provider) -> Timing:
    """The timing for a provider: by where its guests are, and by how often it may be asked."""
    if provider.this_machine:
        return LOCAL
    if not provider.rents:
        return QUEUED if provider.poll_s >= QUEUED.poll_s else OWNED
    if provider.simulated:
        return SIMULATED
    return RENTED_SLOW if provider.poll_s > RENTED.poll_s else RENTED
