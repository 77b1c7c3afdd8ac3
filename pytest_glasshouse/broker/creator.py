"""Creates one allocation and boots its guest: from the intent in the ledger to the agent's first answer.

The intent is on disk before the create request, which is sent once. Where its answer is lost, the listing is searched for the
allocation's unique name. Boot and bootstrap have separate deadlines. The renter ends an allocation that failed here.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_glasshouse.broker.fleet import Hello
from pytest_glasshouse.channel.guest_channel import GuestChannel
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    BootTimeoutError,
    GlasshouseError,
    GuestGoneError,
    InfrastructureError,
    LaunchRefusedError,
    NoCapacityError,
    ProviderError,
    RateLimitedError,
    WrongGpuError,
)
from pytest_glasshouse.providers.listing import Listing, doubt_in
from pytest_glasshouse.rows.spec import SIMULATED_GPU
from pytest_glasshouse.wire.guest_messages import DETAIL
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.typed import check_typed

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from pytest_glasshouse.broker.connection import Connection
    from pytest_glasshouse.broker.fleet import FleetMember
    from pytest_glasshouse.broker.lease_ledger import LeaseLedger
    from pytest_glasshouse.broker.timing import Clock, Timing
    from pytest_glasshouse.providers.base import Instance
    from pytest_glasshouse.providers.lease import Lease
    from pytest_glasshouse.providers.requirements import CudaVersion


@dataclass(frozen=True, kw_only=True)
class Creator:
    """Creates and boots allocations. `ending` stops every wait; `emit` gets each step of a boot."""

    clock: Clock
    ledger: LeaseLedger
    connection: Connection
    ending: threading.Event
    boot_timeout_s: float
    #: How long an allocation may wait for a GPU that others use, before its boot begins.
    queue_timeout_s: float
    timing: Timing
    emit: Callable[[str, str], None]
    #: The CUDA version that the machine's driver must support.
    least_cuda: CudaVersion | None = None

    def create(self, allocation: FleetMember) -> None:
        """Write the intent, send one create request, and search by name where its answer was lost.

        Raises what the provider raised (then nothing exists), or `AmbiguousCreateError` (then it may exist).
        """
        lease, provider = allocation.lease, allocation.provider
        launch = self.connection.launch(lease, provider)
        lease.intent_at = self.clock.wall()
        try:
            self.ledger.intent(lease, base_url=provider.base_url)
        except InfrastructureError:
            lease.void = True
            raise
        try:
            # Ambiguous until the answer is here: an interrupt during the call must leave it so.
            lease.ambiguous = True
            instance = provider.create(allocation.offer, launch=launch)
        except AmbiguousCreateError as error:
            self.ledger.write("ambiguous", name=lease.name)
            if error.instance_id:
                self._adopt(lease, error.instance_id)
                with contextlib.suppress(GlasshouseError):
                    # The listing must show it before it is ended, or its absence there would prove nothing.
                    self.note_listing(allocation)
                raise
            self._adopt(lease, self._search(allocation, error))
        except GlasshouseError:
            lease.ambiguous, lease.void = False, True
            self.ledger.write("not-created", name=lease.name)
            raise
        else:
            lease.ambiguous = False
            lease.instance_ids.add(instance.instance_id)
            allocation.gpu_use = instance.gpu_use
            if use := instance.gpu_use.processes:
                self.emit(lease.name, f"its GPU is used by {use} processes of others, {instance.gpu_use.memory_mib} MiB")
            if instance.price_usd_per_hour:
                lease.price_usd_per_hour = max(lease.price_usd_per_hour, instance.price_usd_per_hour)
            self.ledger.write("created", name=lease.name, instance=instance.instance_id)

    def boot(self, allocation: FleetMember) -> None:
        """Wait until it has an address, connect to its agent, and compare its GPU with the offer's."""
        lease = allocation.lease
        instance = self._until_reachable(allocation)
        _check_gpu(lease.name, promised=allocation.offer.gpu_model, seen=instance.gpu_model)
        _check_cuda(lease.name, least=self.least_cuda, seen=instance.cuda)
        self.emit(lease.name, "bootstrap")
        assert instance.access is not None  # noqa: S101  (`_until_reachable` waits for it)
        allocation.access = instance.access
        lease.started_at = min(instance.started_at or self.clock.wall(), self.clock.wall())
        until = self.clock.monotonic() + self.timing.bootstrap_s
        allocation.address = self.connection.connect(lease, instance.access, timeout_s=self.timing.bootstrap_s)
        if allocation.provider.this_machine:
            until = self.clock.monotonic() + self.boot_timeout_s
        allocation.hello = self._first_hello(allocation, until)
        found = [allocation.hello]
        for node in range(1, allocation.offer.nodes):
            self.refuse_when_ending()
            address = self.connection.connect_node(lease, instance.access, node, timeout_s=self.timing.bootstrap_s)
            allocation.node_addresses += (address,)
            found.append(self._first_hello(allocation, self.clock.monotonic() + self.timing.bootstrap_s, address))
        self.refuse_when_ending()
        models = [self._checked_model(allocation, hello) for hello in found]
        if len(set(models)) > 1 or len({hello["agentNonce"] for hello in found}) != len(found):
            raise WrongGpuError(
                f"allocation {lease.name}: expected {len(found)} nodes with the same GPU, each with a guest of its own; saw "
                f"{', '.join(map(printable, models))}. It was ended before any leg",
                allocation_id=lease.name,
            )
        allocation.gpu_model = models[0]

    def _checked_model(self, allocation: FleetMember, hello: Hello) -> str:
        """The GPU model of a node, which is the offer's, or a simulated one's. Raises `WrongGpuError`."""
        offer, name = allocation.offer, allocation.lease.name
        if allocation.provider.simulated and hello["device"] == "cpu":
            return SIMULATED_GPU
        _check_gpu(name, promised=offer.gpu_model, seen=hello["gpuModel"], why=hello.get("deviceReason", ""))
        if hello["device"] == "cuda":
            _check_count(name, promised=offer.gpus // offer.nodes, seen=hello.get("gpuCount"))
        return hello["gpuModel"]

    def refuse_when_ending(self) -> None:
        """Raise `InfrastructureError` once the run is ending."""
        if self.ending.is_set():
            raise InfrastructureError("the run is ending; nothing more is granted")

    def note_listing(self, allocation: FleetMember) -> Listing:
        """What the listing shows of this lease while it runs: the proof of its end needs that. A second instance is an error."""
        lease = allocation.lease
        shown = allocation.provider.list()
        found = Listing((i for i in shown if i.name == lease.name and i.state != "ended"), doubt=doubt_in(shown))
        if found and not lease.seen_listed:
            lease.seen_listed = True
            self.ledger.write("listed", name=lease.name)
        for instance in found:
            self._adopt(lease, instance.instance_id)
        if len(found) > 1:
            raise InfrastructureError(
                f"allocation {lease.name} exists {len(found)} times: expected one, since its name is unique. All were ended; "
                "run again",
                allocation_id=lease.name,
            )
        return found

    def _adopt(self, lease: Lease, instance_id: str) -> None:
        if instance_id not in lease.instance_ids:
            lease.instance_ids.add(instance_id)
            self.ledger.write("adopted", name=lease.name, instance=instance_id)

    def _search(self, allocation: FleetMember, answer_lost: AmbiguousCreateError) -> str:
        lease, doubt = allocation.lease, ""
        while True:
            try:
                found = self.note_listing(allocation)
            except ProviderError as error:
                doubt = f"; the last listing failed: {error}"
            else:
                doubt = f"; the last listing may not be the whole: {found.doubt}" if found.doubt else ""
                if found:
                    return found[0].instance_id
            searched_s = self.clock.wall() - lease.intent_at
            if searched_s >= self.timing.search_s or self.clock.wait_unless(self.ending, self.timing.poll_s):
                raise AmbiguousCreateError(
                    f"{answer_lost}. Searched by its name for {searched_s:.0f} s and not found{doubt}; it is searched for again "
                    "when the run ends",
                    allocation_id=lease.name,
                )

    def _until_reachable(self, allocation: FleetMember) -> Instance:
        lease, limit = allocation.lease, self.boot_timeout_s
        until = self.clock.monotonic() + limit
        queue_until = self.clock.monotonic() + self.queue_timeout_s
        seen = "no answer"
        while True:
            self.refuse_when_ending()
            pause = self.timing.poll_s
            try:
                if not lease.seen_listed:
                    self.note_listing(allocation)
                instance = allocation.provider.get(allocation.instance_id)
            except RateLimitedError as error:
                seen, pause = str(error), max(pause, error.retry_after_s or 0.0)
            except ProviderError as error:
                seen = str(error)
            else:
                instance = self._refuse_unusable(allocation, instance)
                if instance.state == "running" and instance.access is not None:
                    return instance
                seen = f"state {instance.raw_state or instance.state}{': ' + instance.detail if instance.detail else ''}"
                if instance.state == "queued":
                    # Its boot has not begun.
                    until = self.clock.monotonic() + limit
                    if self.clock.monotonic() >= queue_until:
                        raise self._queue_timeout(allocation, seen)
            self.emit(lease.name, seen)
            if self.clock.monotonic() >= until:
                raise self._boot_timeout(allocation, f"expected it to run within {limit:g} s, saw {seen}")
            self.clock.wait_unless(self.ending, pause)

    def _refuse_unusable(self, allocation: FleetMember, instance: Instance | None) -> Instance:
        """The instance, unless it will never run where it can be reached: then this raises."""
        if instance is None or instance.state in ("failed", "stopped", "lost", "ended"):
            raise self._boot_failed(allocation, instance)
        if instance.state == "running" and instance.unusable:
            raise self._unreachable(allocation, instance)
        return instance

    def _first_hello(self, allocation: FleetMember, until: float, address: str = "") -> Hello:
        while True:
            self.refuse_when_ending()
            try:
                return hello(allocation, timeout_s=max(until - self.clock.monotonic(), 0.01), address=address)
            except GuestGoneError:
                if self.clock.monotonic() >= until:
                    limit = self.boot_timeout_s if allocation.provider.this_machine else self.timing.bootstrap_s
                    raise self._boot_timeout(allocation, f"expected its agent within {limit:g} s, saw no answer") from None
                self.clock.wait_unless(self.ending, min(self.timing.poll_s, 0.5))

    def _boot_timeout(self, allocation: FleetMember, what: str) -> BootTimeoutError:
        return BootTimeoutError(
            f"allocation {allocation.lease.name} did not boot: {what}{last_log_line(allocation)}. It was ended. "
            "Raise --glasshouse-boot-timeout or try again",
            allocation_id=allocation.lease.name,
        )

    def _queue_timeout(self, allocation: FleetMember, seen: str) -> NoCapacityError:
        return NoCapacityError(
            f"allocation {allocation.lease.name} waited {self.queue_timeout_s:g} s for a GPU that others use "
            f"({printable(seen)}). It was ended before it began; raise --glasshouse-queue-timeout or try later",
            allocation_id=allocation.lease.name,
        )

    def _unreachable(self, allocation: FleetMember, instance: Instance) -> ProviderError:
        return ProviderError(
            f"allocation {allocation.lease.name} cannot be reached where its provider says that it is: {instance.unusable}. "
            "It was ended; try again, or another offer",
            allocation_id=allocation.lease.name,
        )

    def _boot_failed(self, allocation: FleetMember, instance: Instance | None) -> GlasshouseError:
        if instance is not None and instance.refused:
            return LaunchRefusedError(
                f"allocation {allocation.lease.name} would never run: {instance.refused}. It was ended",
                allocation_id=allocation.lease.name,
            )
        state = "is gone" if instance is None else f"is {instance.raw_state or instance.state}"
        detail = f" ({instance.detail})" if instance is not None and instance.detail else ""
        return InfrastructureError(
            f"allocation {allocation.lease.name} did not boot: the provider says that it {state}{detail}"
            f"{last_log_line(allocation)}. It was ended; try again",
            allocation_id=allocation.lease.name,
        )


def hello(allocation: FleetMember, *, timeout_s: float, address: str = "") -> Hello:
    """The answer to `hello` of its guest, or of the one at `address`. Raises `GuestGoneError`."""
    channel = GuestChannel(address or allocation.address, allocation_id=allocation.lease.name, timeout_s=timeout_s)
    try:
        return check_typed(channel.request("hello"), Hello, "hello")
    finally:
        channel.close()


def last_log_line(allocation: FleetMember) -> str:
    """The last line of its guest's log as the end of a sentence; empty where the provider has none."""
    try:
        tail = allocation.provider.logs(allocation.instance_id).strip().splitlines()[-1:]
    except (GlasshouseError, OSError):
        return ""
    return f"; last line of its log: {printable(tail[0])}" if tail else ""


def _check_gpu(name: str, *, promised: str, seen: str | None, why: str = "") -> None:
    """`why` is the guest's own reason for using its CPU."""
    if seen is not None and seen != promised:
        because = f" ({printable(why, limit=DETAIL)})" if why else ""
        raise WrongGpuError(
            f"allocation {name} has another GPU: expected {promised}, saw {printable(seen)}{because}. It was ended before any "
            "leg; pick another offer",
            allocation_id=name,
        )


def _check_count(name: str, *, promised: int, seen: int | None) -> None:
    if promised > 1 and (seen or 0) < promised:
        raise WrongGpuError(
            f"allocation {name} has {seen or 'no'} GPUs that its torch sees: expected {promised}. It was ended before any leg; "
            "pick another offer",
            allocation_id=name,
        )


def _check_cuda(name: str, *, least: CudaVersion | None, seen: CudaVersion | None) -> None:
    """A machine that was given although its driver is too old for the image: its container would never see the GPU."""
    if least is not None and seen is not None and seen < least:
        raise ProviderError(
            f"allocation {name} has a driver for CUDA {seen}: expected {least} or newer. It was ended before any leg; try "
            "again, or another offer",
            allocation_id=name,
        )
