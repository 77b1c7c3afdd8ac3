"""Allocations that somebody else ended, stopped or restarted: why a guest does not answer, and a watch on those of a queue.

A job that was suspended and goes on is lost too: its guest answers, and its legs stood still.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.providers.base import Queued

if TYPE_CHECKING:
    from pytest_glasshouse.broker.fleet import Fleet, FleetMember
    from pytest_glasshouse.providers.base import Instance, Provider

_SHORTEST_PAUSE_S = 0.5
#: How long an engine may take from the first signal to a job until its processes are gone; Slurm's KillWait is 30 by default.
_SETTLE_S = 10.0


def loss_reason(allocation: FleetMember) -> tuple[str, str]:
    """See `Broker.loss_reason`, for an allocation on another machine that this run did not end."""
    try:
        seen = _settled(allocation)
    except (GlasshouseError, OSError) as error:
        return "unknown", f"the provider does not say what became of the allocation: {error}"
    if why := _lost(seen):
        return "lost", why
    assert seen is not None  # noqa: S101  (`_lost` says so)
    if seen.access != allocation.access:
        return "lost", "the provider shows the allocation at another address than before: it was restarted"
    return "unreachable", "the provider says that the allocation runs, and its guest cannot be reached"


def _settled(allocation: FleetMember) -> Instance | None:
    """What its place shows of it; one that is on its way to its end is looked at again, since only the end has a reason."""
    until = time.monotonic() + _SETTLE_S
    while True:
        seen = allocation.provider.get(allocation.instance_id)
        if seen is None or not (isinstance(allocation.provider, Queued) and seen.state == "stopped") or time.monotonic() >= until:
            return seen
        time.sleep(min(allocation.provider.poll_s, _SHORTEST_PAUSE_S))


def _lost(seen: Instance | None) -> str:
    if seen is None:
        return "the provider says that the allocation is gone"
    if seen.state == "running":
        return ""
    detail = f" ({seen.detail})" if seen.detail else ""
    return f"the provider says that the allocation is {seen.raw_state or seen.state}{detail}"


class QueueWatch:
    """Looks at the ready allocations of one provider with a queue, and ends what is lost: its legs would go on, or wait."""

    def __init__(self, fleet: Fleet, provider: Provider) -> None:
        self._fleet = fleet
        self._provider = provider
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="glasshouse-queue", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join(timeout=1.0)

    def look(self) -> None:
        """Look once. A listing that fails shows nothing."""
        mine = [each for each in list(self._fleet.allocations) if each.provider is self._provider and each.ready and each.usable]
        if not mine:
            return
        try:
            shown = {each.instance_id: each for each in self._provider.list()}
        except (GlasshouseError, OSError):
            return
        for each in mine:
            if each.usable and _lost(shown.get(each.instance_id)):
                kind, why = loss_reason(each)
                if kind == "lost":
                    each.lost = why
                    self._fleet.end(each, why)

    def _run(self) -> None:
        pause_s = max(self._provider.poll_s, _SHORTEST_PAUSE_S)
        while not self._stop.wait(pause_s):
            self.look()


def watch_of(fleet: Fleet, provider: Provider) -> QueueWatch | None:
    """The watch that a provider needs; None for one without a queue."""
    return QueueWatch(fleet, provider) if isinstance(provider, Queued) else None
