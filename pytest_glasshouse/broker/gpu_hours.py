"""GPU-hours, where no money is known: the estimate before anything is asked for, the cap, and the time limits that follow.

Hours count from the moment an allocation runs, by this machine's clock: waiting in a queue costs nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_glasshouse.broker import pricing
from pytest_glasshouse.errors import BudgetError
from pytest_glasshouse.providers.base import Offer, Queued

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_glasshouse.broker.fleet import Fleet
    from pytest_glasshouse.providers.base import Provider
    from pytest_glasshouse.providers.lease import Lease
    from pytest_glasshouse.rows.spec import RowSpec


class GpuHours:
    """The GPU-hours of one run. `limit` None: no cap."""

    def __init__(self, fleet: Fleet, *, limit: float | None) -> None:
        self._fleet = fleet
        self._limit = limit
        self._work_s: dict[str, float] = {}

    def plan(self, rows: Iterable[tuple[Provider, RowSpec]]) -> None:
        """Estimate the rows that cost no money and run elsewhere, and let an engine with a queue check what will be asked of it.

        Raises `BudgetError` above the cap, and `ConfigurationError` for what the engine would refuse. Nothing is created.
        """
        options = self._fleet.options
        counted = [(provider, row) for provider, row in rows if not provider.rents and not provider.this_machine]
        priced = [(provider, row, self._offer(provider, row)) for provider, row in counted]
        quoted = pricing.quote(
            [(row, offer) for _, row, offer in priced], shared=options.allocation == "shared", model_bytes=options.model_bytes
        )
        hours = sum(line.seconds / 3600 * line.gpus for line in quoted.lines)
        if self._limit is not None and hours > self._limit:
            raise BudgetError(
                f"the estimate is {hours:.2f} GPU-hours and the cap {self._limit:g}: nothing was started. Select fewer rows, "
                "shorten them with --glasshouse-leg-seconds, or raise --glasshouse-max-gpu-hours"
            )
        self._work_s = {line.provider: max(self._work_s.get(line.provider, 0.0), line.seconds) for line in quoted.lines}
        checked: set[Offer] = set()
        for provider, _, offer in priced:
            if isinstance(provider, Queued) and offer not in checked:
                checked.add(offer)
                provider.check_offer(offer, lifetime_s=self.lifetime_s(provider, math.inf, gpus=offer.gpus))

    def lifetime_s(self, provider: Provider, longest_s: float, *, gpus: int) -> float:
        """How long an allocation may exist, `longest_s` at most. Raises `BudgetError` where no hours are left for one."""
        if provider.rents or provider.this_machine:
            return longest_s
        limited_s = provider.lifetime_s(self._work_s.get(provider.name, 0.0)) if isinstance(provider, Queued) else longest_s
        if self._limit is None:
            return min(longest_s, limited_s)
        left_s = (self._limit - self.used()) / gpus * 3600
        if left_s <= 0:
            raise BudgetError(f"the cap of {self._limit:g} GPU-hours is reached; nothing more was started")
        waiting_s = provider.lifetime_s(0.0) if isinstance(provider, Queued) else 0.0
        return min(longest_s, limited_s, left_s + waiting_s)

    def used(self) -> float:
        """GPU-hours until now."""
        now = self._fleet.clock.wall()
        return sum(lease.gpu_hours(now) for lease in self._counted())

    def over(self) -> str:
        """Why everything has to end now; empty while hours are left."""
        if self._limit is None or not (used := self.used()) or used < self._limit:
            return ""
        return f"the cap of {self._limit:g} GPU-hours is reached: {used:.2f} by the clock. Every allocation was ended at once"

    def shown(self) -> float | None:
        """For the live line: None where no allocation counts."""
        return self.used() if self._counted() else None

    def _counted(self) -> list[Lease]:
        providers = self._fleet.providers
        return [
            lease for lease in self._fleet.leases()
            if lease.intent_at and lease.provider in providers and not providers[lease.provider].rents
            and not providers[lease.provider].this_machine
        ]  # fmt: skip

    def _offer(self, provider: Provider, row: RowSpec) -> Offer:
        """What a row would get: of an engine its own offer, of hosts that would have to be asked one GPU."""
        return provider.offers(row)[0] if isinstance(provider, Queued) else Offer(provider=provider.name, gpu_model=row.gpu)
