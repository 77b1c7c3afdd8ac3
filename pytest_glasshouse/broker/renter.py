"""From a row to an allocation of its own: offers within the price cap, one after the other, each under a name of its own.

The watch and, for what costs money, the reaper stand before the first thing exists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.broker import pricing as money
from pytest_glasshouse.broker.creator import Creator
from pytest_glasshouse.broker.fleet import ASKED_AGAIN, Fleet, FleetMember
from pytest_glasshouse.broker.timing import BOOT_TIMEOUT_S
from pytest_glasshouse.errors import BudgetError, GlasshouseError, InfrastructureError, NoCapacityError, RateLimitedError
from pytest_glasshouse.providers.lease import Lease, ParsedName

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.providers.base import Offer, Provider
    from pytest_glasshouse.rows.spec import RowSpec

#: How many offers are tried for one row.
CANDIDATES = 5


class Renter:
    """Rents for one fleet. `before` is called before the first create.

    `tell(name, what)` hears how a boot goes on, and nothing as `what` once it is over, well or not.
    """

    def __init__(self, fleet: Fleet, *, tell: Callable[[str, str], None], before: Callable[[Provider], None]) -> None:
        self._fleet = fleet
        self._tell = tell
        self._before = before

    def offers(self, provider: Provider, row: RowSpec, *, say: Callable[[str], None] = lambda _line: None) -> tuple[Offer, ...]:
        """What may be had for `row` within the price cap, in the provider's order. Raises `NoCapacityError`."""
        offers = self._fleet.patiently(provider, lambda: provider.offers(row), say=say)
        cap = self._fleet.options.max_price
        affordable = tuple(offer for offer in offers if cap is None or offer.price_usd_per_hour <= cap)
        if not affordable:
            cheapest = min((offer.price_usd_per_hour for offer in offers), default=0.0)
            raise NoCapacityError(
                f"{provider.name}: no offer for {row.gpu} at up to {cap or 0:g} USD per hour; the cheapest costs {cheapest:.2f}. "
                "Nothing was rented; raise --glasshouse-max-price or try later"
            )
        return affordable[:CANDIDATES]

    def rent(self, provider: Provider, row: RowSpec, key: str) -> FleetMember:
        """An allocation whose guest has answered. What went wrong after a create was ended before its error leaves here."""
        offers = self.offers(provider, row)
        self._before(provider)
        last: GlasshouseError | None = None
        for offer in offers:
            for attempt in range(ASKED_AGAIN):
                allocation = self._named(provider, offer, key)
                try:
                    self._try(allocation)
                except NoCapacityError as error:
                    last = error
                    break
                except RateLimitedError as error:
                    if not allocation.lease.void:
                        raise
                    last = error
                    pause_s = error.retry_after_s or self._fleet.timing(provider).poll_s * 2**attempt
                    self._fleet.clock.until(self._fleet.ending, pause_s)
                else:
                    return allocation
        raise last or InfrastructureError(f"{provider.name}: no offer was tried")

    def _try(self, allocation: FleetMember) -> None:
        """Create and boot one."""
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
            self._tell(allocation.lease.name, "")
        with self._fleet.changed:
            allocation.ready = True

    def _named(self, provider: Provider, offer: Offer, key: str) -> FleetMember:
        """A name, a price and an absolute deadline, which is never later than what is left of the budget lasts."""
        fleet, options = self._fleet, self._fleet.options
        with fleet.changed:
            now = fleet.clock.wall()
            lifetime_s = fleet.timing(provider).lifetime_s
            lease = Lease(name="", provider=provider.name, price_usd_per_hour=offer.price_usd_per_hour, intent_at=now)
            if options.budget_usd is not None and offer.price_usd_per_hour > 0:
                left_s = money.seconds_left([*fleet.leases(), lease], budget_usd=options.budget_usd, now=now)
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
            boot_timeout_s=BOOT_TIMEOUT_S.get(provider.name, 900.0) if limit is None else limit,
            timing=fleet.timing(provider),
            tell=lambda allocation, what: self._tell(allocation.lease.name, what),
        )
