"""How long things may take, and the clocks they are measured with.

Providers differ in how fast they may be asked and how long their listings lag; nothing else here knows a provider.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Time as an argument: `monotonic` and `wall` in seconds, `wait(seconds)` sleeps."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    wait: Callable[[float], None] = time.sleep

    def until(self, stop: threading.Event, seconds: float) -> bool:
        """Wait, but no longer than until `stop` is set; says whether it is."""
        if self.wait is time.sleep:
            return stop.wait(seconds)
        self.wait(seconds)
        return stop.is_set()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds. A proof takes at least `looks` clean looks spread over `settle_s`, and gives up after `give_up_s`.

    An ambiguous create is searched by name for `search_s` from its intent on: listings lag by 35 to 178 s in the wild.
    """

    poll_s: float
    search_s: float
    settle_s: float
    give_up_s: float
    looks: int = 3
    bootstrap_s: float = 300.0
    #: What ending takes: a budget is reached this long before the money is gone.
    reserve_s: float = 30.0
    #: How long an allocation may live, whatever happens: its absolute deadline is in its name.
    lifetime_s: float = 24 * 3600.0
    #: How long after a lease's deadline the run itself is trusted to end it, before the reaper does.
    overdue_s: float = 30.0
    #: How long the pieces of this run that outlive it (the reaper) go on past the deadline.
    grace_s: float = 24 * 3600.0

    def as_text(self) -> str:
        """As JSON, for another process."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Timing:
        """What `as_text` wrote."""
        return cls(**json.loads(text))


#: How long an allocation may take until it runs and can be reached; a cold image alone takes minutes elsewhere.
BOOT_TIMEOUT_S = {"mock": 15.0, "local": 60.0, "runpod": 1200.0, "vastai": 900.0}

#: An allocation that is a process of this machine: the process table does not lag.
HERE = Timing(poll_s=0.05, search_s=5.0, settle_s=0.0, give_up_s=2.0, looks=1, bootstrap_s=60.0, reserve_s=0.0)
RENTED = Timing(poll_s=5.0, search_s=180.0, settle_s=60.0, give_up_s=300.0)
#: Providers of which an identity may ask one endpoint only every few seconds.
SLOWLY = Timing(poll_s=10.0, search_s=180.0, settle_s=60.0, give_up_s=300.0)
#: A provider that stands on loopback and is announced as such. Same steps, no lag to sit out.
SIMULATED = Timing(poll_s=0.2, search_s=4.0, settle_s=1.0, give_up_s=20.0, bootstrap_s=60.0, reserve_s=1.0)


def timing_of(*, rents: bool, simulated: bool, poll_s: float) -> Timing:
    """The times for a provider that may be asked every `poll_s` seconds."""
    if not rents:
        return HERE
    if simulated:
        return SIMULATED
    return SLOWLY if poll_s > RENTED.poll_s else RENTED
