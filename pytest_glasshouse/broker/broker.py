"""The broker: the only part that creates and ends allocations. It lives in pytest's process, with xdist in the controller's.

It promises that everything is priced before the first grant, that an allocation is granted to one row at a time, that what
exceeds the budget or its deadline is ended, and that `end_all` reports whether every allocation is gone. It judges no row.
"""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from pytest_glasshouse.broker import pricing
from pytest_glasshouse.broker.cleanup_proof import cleanup_of
from pytest_glasshouse.broker.creator import hello
from pytest_glasshouse.broker.fleet import BrokerOptions, Fleet, FleetMember
from pytest_glasshouse.broker.limit_watch import LimitWatch
from pytest_glasshouse.broker.loss import QueueWatch, loss_reason, watch_of
from pytest_glasshouse.broker.renter import Renter, keys_of
from pytest_glasshouse.broker.timing import Clock
from pytest_glasshouse.errors import (
    BudgetError,
    ConfigurationError,
    GuestGoneError,
    InfrastructureError,
    NoCapacityError,
    ProtocolError,
)
from pytest_glasshouse.providers.base import Queued
from pytest_glasshouse.providers.listing import Listing, doubt_in
from pytest_glasshouse.providers.places import runs_side_by_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pytest_glasshouse.broker.connection import Connection
    from pytest_glasshouse.broker.reaper import ReaperLike
    from pytest_glasshouse.providers.base import Cleanup, Grant, Offer, Provider
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json

__all__ = ["Broker", "BrokerOptions"]

#: How long a signal handler waits until the end of every allocation was requested.
_SIGNAL_WAIT_S = 5.0


class Broker:
    """Grants allocations. Its constructor has no side effects, and raises `ConfigurationError` for what the user can fix."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        providers: Mapping[str, Provider] | None = None,
        clock: Clock | None = None,
        connection: Connection | None = None,
        emit: Callable[[str, str], None] = lambda _name, _what: None,
        start_reaper: Callable[[], ReaperLike] | None = None,
    ) -> None:
        """`providers` are open already, by name; others are opened when a row needs them. `emit` gets each step of a boot."""
        self._options = options
        self._fleet = Fleet(options, providers=providers, clock=clock or Clock(), connection=connection, emit=emit)
        self._renter = Renter(self._fleet, before=self._prepare)
        self._creating: list[str] = []
        self._stopped = ""
        #: The run's rows by row id; empty where none were planned.
        self._planned: dict[str, RowSpec] = {}
        self._granted_rows: set[str] = set()
        self._queue_watches: dict[str, QueueWatch | None] = {}
        self._watch: LimitWatch | None = None
        self._start_reaper = start_reaper or self._default_reaper
        self._reaper: ReaperLike | None = None
        if options.provider != "row":
            self._fleet.connection(self._fleet.provider(options.provider))

    # -- before the first grant

    def plan(self, rows: Sequence[RowSpec]) -> None:
        """Set the run's rows, before the first grant: opens every provider they need, and rents nothing.

        Raises `ConfigurationError`, also where the guests of a provider could not be reached from this machine, `BudgetError`
        above the cap of GPU-hours, and `InfrastructureError` where machines of the user's own do not answer.
        """
        for provider in {name: self._fleet.provider(name) for name in map(self._provider_of, rows)}.values():
            self._fleet.connection(provider)
            if not (provider.rents or provider.this_machine):
                self._fleet.with_retries(provider, provider.account)
        self._planned = {row.row_id: row for row in rows}
        self._fleet.hours.plan((self._fleet.provider(self._provider_of(row)), row) for row in rows)

    @property
    def rents(self) -> bool:
        """Whether the planned rows cost money."""
        return any(self._fleet.provider(self._provider_of(row)).rents for row in self._planned.values())

    @property
    def simulated(self) -> tuple[str, ...]:
        """The providers in use whose API is not their own."""
        return tuple(sorted(name for name, provider in self._fleet.providers.items() if provider.simulated))

    def quote(self, *, on_retry: Callable[[str], None] = lambda _line: None) -> pricing.Quote:
        """Price every planned row that would be rented; `on_retry` gets a line for each request that is repeated.

        Raises `BudgetError` above the budget, `ConfigurationError`, and `InfrastructureError` where a provider has no prices.
        """
        priced: list[tuple[RowSpec, Offer]] = []
        unavailable: list[str] = []
        for row in self._planned.values():
            provider = self._fleet.provider(self._provider_of(row))
            if not provider.rents:
                continue
            try:
                priced.append((row, self._renter.offers(provider, row, on_retry=on_retry)[0]))
            except NoCapacityError as error:
                unavailable.append(f"{row.name}: {error}")
        quote = pricing.quote(
            priced, shared=self._options.allocation == "shared", unavailable=unavailable, model_bytes=self._options.model_bytes,
            required=self._fleet.required_text() if self.rents else "",
        )  # fmt: skip
        quote.check(self._options.budget_usd)
        return quote

    # -- while rows run

    def acquire(self, row: RowSpec, *, worker: str = "main") -> Grant:
        """Wait for an allocation for `row`, and create it where there is none.

        Raises a subclass of `InfrastructureError`, `BudgetError` once the budget is reached, or `ConfigurationError` where
        the provider cannot run the row, or where rows were planned and this one is not among them: it has no price.
        """
        if self._planned and row.row_id not in self._planned:
            raise ConfigurationError(
                f"row {row.name!r} was not priced: the run planned {_names(list(self._planned))}. Nothing else is granted"
            )
        provider = self._fleet.provider(self._provider_of(row))
        self._granted_rows.add(row.row_id)
        machines = self._renter.machines(provider, row)
        grant_id = f"{worker}-{secrets.token_hex(4)}"
        while isinstance(found := self._claim(keys_of(provider, row, machines), grant_id), FleetMember):
            with self._freed_on_error(found):
                if self._is_same_guest(found):
                    return found.grant(grant_id, self._options.faults)
                # A guest that is gone, or was restarted, is not granted to another row.
                self._fleet.end(found, "its guest stopped answering, or was restarted")
            self._free(found)
        key = found
        try:
            self._make_room(provider, key)
            allocation = self._renter.rent(provider, row, key, machines)
            allocation.grant_id = grant_id
            with self._freed_on_error(allocation):
                return allocation.grant(grant_id, self._options.faults)
        except BudgetError as error:
            self._stopped = self._stopped or str(error)
            raise
        except InfrastructureError:
            self._refuse_over_budget()
            raise
        finally:
            with self._fleet.changed:
                self._creating.remove(key)
                self._fleet.changed.notify_all()

    def release(self, grant: Grant, *, worker: str = "main") -> None:
        """Give a grant back. With one allocation per row, this ends the allocation."""
        del worker
        allocation = self._member(grant)
        if allocation is not None:
            try:
                if self._options.allocation == "row":
                    self._fleet.end(allocation, "its row is done")
                elif isinstance(allocation.provider, Queued) and not self._is_awaited(allocation):
                    self._fleet.end(allocation, "no row is left for it")
            finally:
                self._free(allocation)

    def end(self, grant: Grant, why: str) -> None:
        """End a granted allocation whose guest cannot be used any more. The caller must still release the grant."""
        allocation = self._member(grant)
        if allocation is not None:
            self._fleet.end(allocation, why)

    def abandon(self, worker: str) -> None:
        """End the allocations granted to a worker that died: what still runs there is not known."""
        # Each of them, also where another cannot be ended.
        with contextlib.ExitStack() as all_of_them:
            for allocation in list(self._fleet.allocations):
                if allocation.grant_id and allocation.grant_id.startswith(f"{worker}-"):
                    all_of_them.callback(self._free, allocation)
                    all_of_them.callback(self._fleet.end, allocation, "the worker that used it is gone")

    def inject_fault(self, grant: Grant, action: str) -> None:
        """Let the mock provider play one step of a fault on a granted allocation."""
        self._fleet.provider(grant.provider).inject_fault(grant.instance_id, action)

    def listing(self, provider: str = "") -> Listing:
        """What `provider`, or every provider in use, lists now. A request that fails for the moment is repeated."""
        used = {each.provider.name: each.provider for each in self._fleet.allocations} or self._fleet.providers
        asked = [self._fleet.provider(provider)] if provider else list(used.values())
        shown = [self._fleet.with_retries(each, each.list) for each in asked]
        return Listing((one for each in shown for one in each), doubt="; ".join(filter(None, map(doubt_in, shown))))

    def loss_reason(self, grant: Grant) -> tuple[str, str]:
        """Why the guest of an allocation does not answer: a kind and a sentence.

        `ended` by this broker; `lost`, by the provider's account; `unreachable`, though the provider says that it runs; `unknown`
        where the provider does not answer. Two empty texts for a guest of this machine.
        """
        allocation = self._member(grant)
        if allocation is None:
            return "", ""
        if allocation.lost:
            return "lost", allocation.lost
        if self._stopped or allocation.loss_reason:
            return "ended", self._stopped or allocation.loss_reason
        if allocation.provider.this_machine:
            return "", ""
        return loss_reason(allocation)

    # -- the end

    @property
    def cpu_reasons(self) -> tuple[str, ...]:
        """Why guests of this run train on their CPU although they have a driver: each reason once."""
        return tuple({each.hello["deviceReason"]: "" for each in [*self._fleet.allocations] if "deviceReason" in each.hello})

    @property
    def over_budget(self) -> str:
        """The message where the budget ended the run; empty otherwise."""
        return self._stopped

    def spent_usd(self) -> float | None:
        """The cost of the run's allocations until now, by the clock and their prices; None where nothing is rented."""
        leases = [lease for lease in self._fleet.leases() if lease.intent_at and self._fleet.provider(lease.provider).rents]
        return pricing.spent_usd(leases, self._fleet.clock.wall()) if leases else None

    def gpu_hours(self) -> float | None:
        """The GPU-hours of the run's allocations that have no price; None where there is none."""
        return self._fleet.hours.shown()

    def check_limits(self) -> None:
        """End what exceeds the budget or its deadline. Called twice a second while anything exists."""
        fleet, now, budget = self._fleet, self._fleet.clock.wall(), self._options.budget_usd
        if budget is not None and not self._stopped:
            leases = [lease for lease in fleet.leases() if lease.intent_at]
            reserve_s = max((fleet.timing(each.provider).reserve_s for each in list(fleet.allocations)), default=0.0)
            if pricing.seconds_left(leases, budget_usd=budget, now=now) <= reserve_s:
                self._stopped = (
                    f"the budget of {budget:g} USD is reached: {pricing.spent_usd(leases, now):.2f} USD by the clock. "
                    "Every allocation was ended at once"
                )
                fleet.end_now(self._stopped)
        if not self._stopped and (over := fleet.hours.over()):
            self._stopped = over
            fleet.end_now(over)
        for each in list(fleet.allocations):
            if not each.lease.over and not each.loss_reason and now >= each.lease.deadline:
                fleet.end(each, "its total deadline is over; it was ended")

    def signal_end(self) -> None:
        """End everything at once, from a signal handler: takes no lock and proves nothing."""
        if self._watch is not None:
            self._watch.request_end(wait_s=_SIGNAL_WAIT_S)

    def end_all(self) -> Cleanup:
        """End everything, and return whether that is proven. May be called again; the last result counts."""
        fleet = self._fleet
        fleet.ending.set()
        with fleet.changed:
            fleet.changed.notify_all()
        for watch in (self._watch, *self._queue_watches.values()):
            if watch is not None:
                watch.close()
        for lease in (open_ones := [lease for lease in fleet.leases() if not lease.over and lease.intent_at]):
            lease.ambiguous = lease.ambiguous or not lease.instance_ids
        verdicts = {verdict.lease.name: verdict for verdict in fleet.termination(open_ones).prove()}
        for each in fleet.allocations:
            fleet.connection(each.provider).disconnect(each.lease)
        allocations: list[dict[str, Json]] = []
        for each in fleet.allocations:
            if each.lease.void or not each.lease.intent_at:
                continue
            verdict = verdicts.get(each.lease.name)
            allocations.append({
                "name": each.lease.name, "provider": each.lease.provider, "instanceId": each.instance_id or None,
                "status": "proven" if verdict is None else verdict.status,
                "detail": "proven before" if verdict is None else verdict.reason,
            })  # fmt: skip
        cleanup = cleanup_of(allocations)
        if self._reaper is not None:
            self._reaper.dismiss(wait=cleanup.status in ("proven", "nothing-rented"))
        return cleanup

    def secrets(self) -> tuple[str, ...]:
        """What must not be published: addresses of guests, keys, the providers' credentials."""
        fleet = self._fleet
        own = [each for provider in fleet.providers.values() for each in provider.secrets()]
        of_guests = [each for provider in fleet.providers.values() for each in fleet.connection(provider).secrets()]
        return tuple(dict.fromkeys(each for each in [*own, *of_guests] if each))

    # -- inside

    def _provider_of(self, row: RowSpec) -> str:
        return row.provider if self._options.provider == "row" else self._options.provider

    def _claim(self, keys: Mapping[str, bool], grant_id: str) -> FleetMember | str:
        """Wait until no row uses what one of `keys` names; return an allocation that is ready, or the key to create one for.

        A key whose value is true stands for one machine, of which a second allocation cannot be had.
        """
        fleet = self._fleet
        shared = self._options.allocation == "shared"
        waits = shared and not runs_side_by_side(next(iter(keys)).partition("/")[0])
        with fleet.changed:
            while True:
                self._refuse_over_budget()
                if fleet.ending.is_set():
                    raise InfrastructureError("the run is ending; nothing more is granted")
                mine = [each for each in fleet.allocations if each.key in keys and each.usable]
                busy = {*self._creating, *(each.key for each in mine if each.grant_id)}
                ready = (each for each in mine if each.ready and not each.grant_id)
                found = next((each for each in ready if not waits or each.key not in busy), None)
                if found is not None and shared:
                    found.grant_id = grant_id
                    return found
                free = next((key for key, single in keys.items() if key not in busy or not (waits or single)), None)
                if free is not None:
                    self._creating.append(free)
                    return free
                fleet.changed.wait(timeout=1.0)

    def _is_awaited(self, allocation: FleetMember) -> bool:
        """Whether a row of the plan that was not granted yet could use it, and no row waits for another one meanwhile."""
        if any(key != allocation.key for key in self._creating):
            return False
        left = [row for row_id, row in self._planned.items() if row_id not in self._granted_rows]
        return any(allocation.key in keys_of(self._fleet.provider(self._provider_of(row)), row, ()) for row in left)

    def _make_room(self, provider: Provider, key: str) -> None:
        """End what is idle in an engine's queue: the next allocation would wait for the GPUs that this run itself holds."""
        if isinstance(provider, Queued):
            idle = [
                each for each in list(self._fleet.allocations)
                if each.provider is provider and each.key != key and each.ready and each.usable and not each.grant_id
            ]  # fmt: skip
            for each in idle:
                self._fleet.end(each, "another row waits for its GPU")

    def _free(self, allocation: FleetMember) -> None:
        with self._fleet.changed:
            allocation.grant_id = None
            self._fleet.changed.notify_all()

    def _refuse_over_budget(self) -> None:
        if self._stopped:
            raise BudgetError(f"{self._stopped}; nothing more is granted")

    def _member(self, grant: Grant) -> FleetMember | None:
        return next((each for each in self._fleet.allocations if each.lease.name == grant.allocation_id), None)

    @contextlib.contextmanager
    def _freed_on_error(self, allocation: FleetMember) -> Iterator[None]:
        """Free the allocation on any error between claim and grant, interrupts included: other rows would wait for ever."""
        try:
            yield
        except BaseException:
            self._free(allocation)
            raise

    def _is_same_guest(self, allocation: FleetMember) -> bool:
        try:
            return hello(allocation, timeout_s=5.0)["agentNonce"] == allocation.hello["agentNonce"]
        except (GuestGoneError, ProtocolError):
            return False

    def _prepare(self, provider: Provider) -> None:
        """Start what must run before anything exists: the watch of the limits, and the reaper where it can outlive this run."""
        with self._fleet.changed:
            if self._watch is None:
                self._watch = LimitWatch(
                    check=self.check_limits, end_now=lambda: self._fleet.end_now("the run was interrupted; it was ended")
                )
            if provider.name not in self._queue_watches:
                self._queue_watches[provider.name] = watch_of(self._fleet, provider)
            if not provider.this_machine and self._reaper is None:
                self._reaper = self._start_reaper()

    def _default_reaper(self) -> ReaperLike:
        from pytest_glasshouse.broker.reaper import Reaper

        options = self._options
        return Reaper.start(
            self._fleet.ledger.path,
            timing=options.timing,
            allow_simulated=options.allow_simulated,
            environment=options.machines.to_environment(),
        )


def _names(row_ids: Sequence[str]) -> str:
    return ", ".join(row_ids[:5]) + (", ..." if len(row_ids) > 5 else "")  # noqa: PLR2004
