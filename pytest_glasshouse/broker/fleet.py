"""The allocations of one run, with the providers, connections, timings and ledger that go with them. Broker and renter share it.

It ends one allocation or all of them at once. It knows no rows and decides on no grants.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict, TypeVar

from pytest_glasshouse.broker.cleanup_proof import Termination
from pytest_glasshouse.broker.connection import shut_down_quietly
from pytest_glasshouse.broker.connection_of import connection_of
from pytest_glasshouse.broker.gpu_hours import GpuHours
from pytest_glasshouse.broker.lease_ledger import LEDGER, LeaseLedger
from pytest_glasshouse.broker.pricing import DISK_GB, disk_gb
from pytest_glasshouse.broker.timing import Clock, Timing, timing_of
from pytest_glasshouse.channel.archive import reference_source
from pytest_glasshouse.errors import NoCapacityError, ProviderError, RateLimitedError
from pytest_glasshouse.providers.base import GpuUse, Grant, Queued
from pytest_glasshouse.providers.place_settings import OwnMachines
from pytest_glasshouse.providers.registry import open_provider
from pytest_glasshouse.providers.requirements import ANY_MACHINE, Requirements

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_glasshouse.broker.connection import Connection
    from pytest_glasshouse.providers.base import Access, Offer, Provider
    from pytest_glasshouse.providers.lease import Lease

#: How often a request that failed for the moment is repeated.
MOST_RETRIES = 4
#: How long to wait until every allocation's end was requested, all at the same time, before the proof begins.
_END_WAIT_S = 30.0

ReadT = TypeVar("ReadT")


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """The run's options for the broker. With the `provider` `row`, each row's own provider is used."""

    provider: str
    run_id: str
    run_dir: Path
    allocation: Literal["shared", "row"] = "shared"
    boot_timeout_s: float | None = None
    leg_timeout_s: float | None = None
    faults: tuple[str, ...] = ()
    budget_usd: float | None = None
    max_price: float | None = None
    #: The most GPU-hours that allocations without a price may take together.
    max_gpu_hours: float | None = None
    allow_simulated: bool = False
    #: The rented guest's image, pinned by digest.
    image: str | None = None
    #: What a rented machine must have; the disk that base models need is added.
    requirements: Requirements = ANY_MACHINE
    #: By the model of a row, the size of what has to reach its guest.
    model_bytes: Mapping[str, int] = field(default_factory=dict)
    #: The user's own machines.
    machines: OwnMachines = field(default_factory=OwnMachines)
    #: In place of each provider's own timing.
    timing: Timing | None = None


class Hello(TypedDict):
    """What the broker reads of an agent's first answer."""

    agentNonce: str
    device: str
    gpuModel: str
    gpuUuid: str | None
    gpuCount: NotRequired[int]
    #: Why the device is the CPU, although there is a driver.
    deviceReason: NotRequired[str]


@dataclass(kw_only=True)
class FleetMember:
    """One allocation: its lease, and what is known of its guest."""

    lease: Lease
    provider: Provider
    offer: Offer
    key: str
    ready: bool = False
    address: str = ""
    #: Those of the guests on its other nodes.
    node_addresses: tuple[str, ...] = ()
    #: The address the provider showed when the guest was connected.
    access: Access | None = None
    hello: Hello = field(default_factory=lambda: Hello(agentNonce="", device="", gpuModel="", gpuUuid=None))
    gpu_model: str = ""
    gpu_use: GpuUse = field(default_factory=GpuUse)
    grant_id: str | None = None
    #: Why it was ended before its row was done.
    loss_reason: str = ""
    #: Why its place ended, stopped or restarted it, and this run did not.
    lost: str = ""

    @property
    def instance_id(self) -> str:
        """The instance its rows run on."""
        return next(iter(self.lease.instance_ids), "")

    def grant(self, grant_id: str, faults: tuple[str, ...] = ()) -> Grant:
        """The right to use it for one row; `faults` are the mock provider's."""
        provider, hello = self.provider, self.hello
        return Grant(
            grant_id=grant_id,
            allocation_id=self.lease.name,
            provider=provider.name,
            instance_id=self.instance_id,
            address=self.address,
            gpu_model=self.gpu_model,
            gpu_uuid=hello["gpuUuid"],
            device=hello["device"],
            archive_sha256=provider.archive_sha256,
            reference_source=reference_source(),
            dry_run=provider.dry_run or provider.simulated,
            simulated=provider.simulated,
            preemptible=isinstance(provider, Queued),
            remote=not provider.this_machine,
            other_processes=self.gpu_use.processes,
            other_memory_mib=self.gpu_use.memory_mib,
            faults=faults if provider.name == "mock" else (),
            node_addresses=self.node_addresses,
        )

    @property
    def usable(self) -> bool:
        """Whether it may still be granted to a row."""
        return not (self.lease.over or self.lease.ended or self.loss_reason)


class Fleet:
    """See the module. `changed` guards the allocations and their grants; no provider is called while it is held."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        providers: Mapping[str, Provider] | None,
        clock: Clock,
        connection: Connection | None,
        emit: Callable[[str, str], None],
    ) -> None:
        """`emit(name, step)` gets each step of an allocation's boot, and an empty `step` once the boot is over or failed."""
        self.options = options
        self.clock = clock
        self.ledger = LeaseLedger(options.run_dir / LEDGER, wall=clock.wall)
        self.changed = threading.Condition()
        self.ending = threading.Event()
        self.allocations: list[FleetMember] = []
        self.providers: dict[str, Provider] = dict(providers or {})
        self._connection = connection
        self.emit = emit
        self._connections: dict[str, Connection] = {}
        self.hours = GpuHours(self, limit=options.max_gpu_hours)

    def provider(self, name: str) -> Provider:
        """The provider called `name`, opened when it is first needed. Raises `ConfigurationError`."""
        if name not in self.providers:
            options = self.options
            self.providers[name] = open_provider(
                name,
                options.faults,
                allow_simulated=options.allow_simulated,
                max_price_usd_per_hour=options.max_price,
                requirements=self.requirements,
                machines=options.machines,
            )
        return self.providers[name]

    @property
    def requirements(self) -> Requirements:
        """What every rented machine of this run must have, with the disk for its base models."""
        asked = self.options.requirements
        models_gb = disk_gb(self.options.model_bytes, shared=self.options.allocation == "shared")
        return replace(asked, disk_gb=max(asked.disk_gb or 0, models_gb))

    def required_text(self) -> str:
        """What every rented machine must have, for the price table; it says so where the image's CUDA version is not known."""
        required = self.requirements
        return str(required) if required.cuda else f"{required}, any CUDA version (--glasshouse-min-cuda requires the image's)"

    def timing(self, provider: Provider) -> Timing:
        """The timing for that provider."""
        return self.options.timing or timing_of(provider)

    def connection(self, provider: Provider) -> Connection:
        """The connection to its guests."""
        if provider.name not in self._connections:
            self._connections[provider.name] = self._connection or connection_of(
                provider,
                image=self.options.image,
                boot_timeout_s=self.options.boot_timeout_s,
                queue_timeout_s=self.options.machines.queue_timeout_s,
                disk_gb=self.requirements.disk_gb or DISK_GB,
                emit=self.emit,
            )
        return self._connections[provider.name]

    def leases(self) -> list[Lease]:
        """The leases of all allocations, also of those that were never created."""
        return [allocation.lease for allocation in list(self.allocations)]

    def with_retries(
        self, provider: Provider, read: Callable[[], ReadT], *, on_retry: Callable[[str], None] = lambda _line: None
    ) -> ReadT:
        """The result of `read`, repeated after errors that may pass; `on_retry` gets a line for each. Never for a create."""
        pause_s = self.timing(provider).poll_s
        attempt = 0
        while True:
            try:
                return read()
            except NoCapacityError:
                raise
            except ProviderError as error:
                if attempt == MOST_RETRIES or self.ending.is_set():
                    raise
                retry_after_s = error.retry_after_s if isinstance(error, RateLimitedError) else None
                wait_s = max(pause_s * 2**attempt, retry_after_s or 0.0)
                attempt += 1
                on_retry(f"{error}; asked again in {wait_s:g} s (try {attempt + 1} of {MOST_RETRIES + 1})")
                self.clock.wait_unless(self.ending, wait_s)

    def end(self, allocation: FleetMember, why: str) -> None:
        """Ask the guest to zeroize and the provider to end it, now. The proof at the run's end tries again what fails here."""
        lease, provider = allocation.lease, allocation.provider
        allocation.loss_reason = allocation.loss_reason or why
        if not lease.instance_ids or lease.over:
            return
        if not provider.this_machine:
            threading.Thread(target=shut_down_quietly, args=(self.connection(provider), lease), daemon=True).start()
        self.termination([lease]).request()

    def termination(self, leases: Sequence[Lease]) -> Termination:
        """What terminates these leases and proves that they are gone."""
        timings = {name: self.timing(self.providers[name]) for name in {lease.provider for lease in leases}}
        return Termination(leases, providers=self.providers, timings=timings, clock=self.clock, ledger=self.ledger)

    def end_now(self, why: str) -> None:
        """End all allocations at the same time: one that hangs must not keep the others alive."""
        self.ending.set()
        enders = [threading.Thread(target=self.end, args=(each, why), daemon=True) for each in list(self.allocations)]
        for ender in enders:
            ender.start()
        for ender in enders:
            ender.join(timeout=_END_WAIT_S)
