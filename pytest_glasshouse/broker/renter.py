"""Rents an allocation for a row: tries the offers within the price cap one after the other, each under a new name.

The watch of the limits, and for paid providers the reaper, run before anything exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.broker import pricing
from pytest_glasshouse.broker.creator import Creator
from pytest_glasshouse.broker.fleet import MOST_RETRIES, Fleet, FleetMember
from pytest_glasshouse.errors import (
    BudgetError,
    ConfigurationError,
    GlasshouseError,
    InfrastructureError,
    NoCapacityError,
    RateLimitedError,
)
from pytest_glasshouse.providers.base import SpansNodes
from pytest_glasshouse.providers.lease import Lease, ParsedName
from pytest_glasshouse.providers.places import boot_timeout_of, queue_timeout_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pytest_glasshouse.providers.base import Offer, Provider
    from pytest_glasshouse.rows.spec import RowSpec

#: How many offers are tried for one row.
CANDIDATES = 5


def key_of(offer: Offer) -> str:
    """What stands for the one machine of an offer."""
    return f"{offer.provider}/{offer.machine}"


def keys_of(provider: Provider, row: RowSpec, machines: Sequence[Offer]) -> dict[str, bool]:
    """What an allocation for `row` can be granted by, and whether that is one machine."""
    if provider.this_machine:
        return {"this machine": True}
    return {key_of(offer): True for offer in machines} or {
        f"{provider.name}/{row.gpu}{f'x{row.gpus}' if row.gpus > 1 else ''}{f'/{row.nodes}' if row.nodes > 1 else ''}": False
    }


class Renter:
    """Rents for one fleet. `before` is called before each series of create requests."""

    def __init__(self, fleet: Fleet, *, before: Callable[[Provider], None]) -> None:
        self._fleet = fleet
        self._before = before

    def offers(
        self, provider: Provider, row: RowSpec, *, on_retry: Callable[[str], None] = lambda _line: None
    ) -> tuple[Offer, ...]:
        """The offers for `row` within the price cap, in the provider's order. Raises `NoCapacityError`."""
        if row.nodes > 1 and not isinstance(provider, SpansNodes):
            raise ConfigurationError(
                f"row {row.name}: field nodes: expected 1 on provider {provider.name}, whose allocations are single machines; "
                f"saw {row.nodes}. Nothing was started"
            )
        offers = self._fleet.with_retries(provider, lambda: provider.offers(row), on_retry=on_retry)
        cap = self._fleet.options.max_price
        affordable = tuple(offer for offer in offers if cap is None or offer.price_usd_per_hour <= cap)
        if not affordable:
            cheapest = min((offer.price_usd_per_hour for offer in offers), default=0.0)
            raise NoCapacityError(
                f"{provider.name}: no offer for {row.gpu} at up to {cap or 0:g} USD per hour; the cheapest costs {cheapest:.2f}. "
                "Nothing was rented; raise --glasshouse-max-price or try later"
            )
        return affordable[:CANDIDATES]

    def machines(self, provider: Provider, row: RowSpec) -> tuple[Offer, ...]:
        """The offers for `row` at a place whose offers are certain machines; empty at one that makes them to order."""
        if provider.this_machine or provider.rents:
            return ()
        return tuple(offer for offer in self.offers(provider, row) if offer.machine)

    def rent(self, provider: Provider, row: RowSpec, key: str, machines: Sequence[Offer] = ()) -> FleetMember:
        """An allocation whose guest has answered. One that failed after its create was ended before the error is raised.

        Of `machines`, the one that `key` stands for is tried first.
        """
        offers = sorted(machines, key=lambda offer: key_of(offer) != key) or self.offers(provider, row)
        self._before(provider)
        last: GlasshouseError | None = None
        for offer in offers:
            for attempt in range(MOST_RETRIES):
                allocation = self._new_member(provider, offer, key_of(offer) if offer.machine else key)
                try:
                    self._create_and_boot(allocation)
                except NoCapacityError as error:
                    last = error
                    break
                except RateLimitedError as error:
                    if not allocation.lease.void:
                        raise
                    last = error
                    pause_s = error.retry_after_s or self._fleet.timing(provider).poll_s * 2**attempt
                    self._fleet.clock.wait_unless(self._fleet.ending, pause_s)
                else:
                    return allocation
        raise last or InfrastructureError(f"{provider.name}: no offer was tried")

    def _create_and_boot(self, allocation: FleetMember) -> None:
        """Create and boot an allocation; end it on any error."""
        creator = self._creator(allocation.provider)
        try:
            creator.refuse_when_ending()
            creator.create(allocation)
            creator.refuse_when_ending()
            creator.boot(allocation)
        except BaseException as error:
            lease = allocation.lease
            lease.void = lease.void or not lease.intent_at
            if not lease.void:
                if isinstance(error, GlasshouseError):
                    error.allocation_id = lease.name
                self._fleet.end(allocation, str(error) or type(error).__name__)
            raise
        finally:
            self._fleet.emit(allocation.lease.name, "")
        with self._fleet.changed:
            allocation.ready = True

    def _new_member(self, provider: Provider, offer: Offer, key: str) -> FleetMember:
        """A new allocation with name, price and absolute deadline; the rest of the budget pays for it until then."""
        fleet, options = self._fleet, self._fleet.options
        with fleet.changed:
            now = fleet.clock.wall()
            lifetime_s = fleet.hours.lifetime_s(provider, fleet.timing(provider).lifetime_s, gpus=offer.gpus)
            lease = Lease(
                name="", provider=provider.name, price_usd_per_hour=offer.price_usd_per_hour, intent_at=now, gpus=offer.gpus
            )
            if options.budget_usd is not None and offer.price_usd_per_hour > 0:
                left_s = pricing.seconds_left([*fleet.leases(), lease], budget_usd=options.budget_usd, now=now)
                if left_s <= fleet.timing(provider).reserve_s:
                    raise BudgetError(
                        f"what is left of the budget of {options.budget_usd:g} USD does not pay for another allocation; "
                        "nothing more was rented"
                    )
                lifetime_s = min(lifetime_s, left_s)
            lease.deadline = float(int(now + lifetime_s))
            lease.name = str(ParsedName(run_id=options.run_id, number=len(fleet.allocations) + 1, deadline=int(lease.deadline)))
            lease.intent_at = 0.0
            allocation = FleetMember(lease=lease, provider=provider, offer=offer, key=key)
            fleet.allocations.append(allocation)
            return allocation

    def _creator(self, provider: Provider) -> Creator:
        fleet, limit = self._fleet, self._fleet.options.boot_timeout_s
        return Creator(
            clock=fleet.clock,
            ledger=fleet.ledger,
            connection=fleet.connection(provider),
            ending=fleet.ending,
            boot_timeout_s=boot_timeout_of(provider.name, limit),
            queue_timeout_s=queue_timeout_of(provider.name, fleet.options.machines.queue_timeout_s),
            timing=fleet.timing(provider),
            emit=fleet.emit,
            least_cuda=fleet.requirements.cuda,
        )
