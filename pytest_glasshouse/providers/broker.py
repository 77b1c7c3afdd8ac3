"""The broker: the only one that creates and ends allocations. It lives in the controller.

It promises that an intent is on disk before the one create call, that nothing is created twice, that one machine is
granted to one row at a time, and that `end_all` says truthfully whether everything is gone. It judges no row.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

from pytest_glasshouse.channel.guest import GuestChannel
from pytest_glasshouse.errors import (
    AmbiguousCreateError,
    BootTimeoutError,
    ConfigurationError,
    GlasshouseError,
    GuestGoneError,
    InfrastructureError,
    TerminateError,
    WrongGpuError,
)
from pytest_glasshouse.providers.base import Cleanup, Grant, Launch, UnixAccess
from pytest_glasshouse.providers.ledger import Ledger
from pytest_glasshouse.providers.process import NAME_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_glasshouse.providers.base import Instance, Offer, Provider
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json

#: How long an allocation may live at most; its absolute deadline is part of its name.
LIFETIME_S = 24 * 3600
#: How long an ambiguous create is searched for by name before it counts as lost.
RECONCILE_S = 5.0
#: How long an allocation that was ended may still be listed before it counts as a leak.
SETTLE_S = 2.0
_POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class BrokerOptions:
    """What the broker needs to know of the run."""

    provider: str
    run_id: str
    run_dir: Path
    allocation: Literal["shared", "row"] = "shared"
    boot_timeout_s: float = 15.0
    leg_timeout_s: float | None = None
    faults: tuple[str, ...] = ()
    budget_usd: float | None = None
    max_price: float | None = None


@dataclass(kw_only=True)
class _Allocation:
    name: str
    offer: Offer
    key: str
    instance_id: str | None = None
    address: str = ""
    hello: dict[str, Json] = field(default_factory=dict)
    seen_listed: bool = False
    ended: bool = False
    problem: str = ""
    grant_id: str | None = None


class Broker:
    """Grants allocations. Made without side effects; raises `ConfigurationError` for what the user can fix."""

    def __init__(self, options: BrokerOptions, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._provider = open_provider(options.provider, options.faults)
        self._monotonic = monotonic
        self._ledger = Ledger(options.run_dir / "ledger.jsonl")
        self._changed = threading.Condition()
        self._allocations: list[_Allocation] = []
        self._ending = threading.Event()
        self._planned: dict[str, tuple[str, ...]] = {}

    def plan(self, worker: str, rows: Sequence[RowSpec]) -> None:
        """Hear which rows a worker selected, before its first grant."""
        with self._changed:
            self._planned[worker] = tuple(row.row_id for row in rows)

    def acquire(self, row: RowSpec, *, worker: str = "main") -> Grant:
        """Wait for an allocation for `row`, creating it where there is none.

        Raises a subclass of `InfrastructureError`, or `ConfigurationError` when the provider cannot serve the row.
        """
        with self._changed:
            while self._provider.this_machine and any(a.grant_id and not a.ended for a in self._allocations):
                self._changed.wait(timeout=1.0)
                self._refuse_when_ending()
            self._refuse_when_ending()
            offer = self._provider.offers(row)[0]
            allocation = self._reusable(row, offer) or self._create(row, offer)
            allocation.grant_id = f"{worker}-{secrets.token_hex(4)}"
            return self._grant(allocation)

    def release(self, grant: Grant, *, worker: str = "main") -> None:
        """Give a grant back; with one allocation per row, the allocation ends here."""
        del worker
        with self._changed:
            for allocation in self._allocations:
                if allocation.grant_id == grant.grant_id:
                    allocation.grant_id = None
                    if self._options.allocation == "row":
                        self._end(allocation)
            self._changed.notify_all()

    def abandon(self, worker: str) -> None:
        """A worker died: end what it held, since nobody knows what still runs there."""
        with self._changed:
            for allocation in self._allocations:
                if allocation.grant_id and allocation.grant_id.startswith(f"{worker}-"):
                    self._end(allocation)
                    allocation.grant_id = None
            self._changed.notify_all()

    def play(self, grant: Grant, act: str) -> None:
        """Let the mock provider play one act of a fault on a granted allocation."""
        self._provider.play(grant.instance_id, act)

    def listing(self) -> tuple[Instance, ...]:
        """The provider's own listing, now."""
        return self._provider.list()

    def signal_end(self) -> None:
        """End everything at once, from a signal handler: no lock is taken and no proof is made."""
        self._ending.set()
        for allocation in list(self._allocations):
            if allocation.instance_id and not allocation.ended:
                with contextlib.suppress(GlasshouseError, OSError, KeyError):
                    self._provider.terminate(allocation.instance_id)

    def end_all(self) -> Cleanup:
        """End everything and say whether it is proven. May be called again; the last answer counts."""
        self._ending.set()
        with self._changed:
            for allocation in self._allocations:
                self._end(allocation)
            self._changed.notify_all()
            return self._proof()

    def secrets(self) -> tuple[str, ...]:
        """What must not be published: where the guests are."""
        return tuple(a.address for a in self._allocations if a.address)

    def _refuse_when_ending(self) -> None:
        if self._ending.is_set():
            raise InfrastructureError("the run is ending; nothing more is granted")

    def _reusable(self, row: RowSpec, offer: Offer) -> _Allocation | None:
        for allocation in self._allocations:
            if allocation.ended or allocation.key != self._key(row, offer) or self._options.allocation == "row":
                continue
            try:
                if self._hello(allocation, timeout_s=2.0)["agentNonce"] == allocation.hello["agentNonce"]:
                    return allocation
            except GuestGoneError:
                pass
            # A guest that is gone or came back as another is not given to a row as if nothing had happened.
            self._end(allocation)
        return None

    def _key(self, row: RowSpec, offer: Offer) -> str:
        return "this machine" if self._provider.this_machine else f"{offer.provider}/{row.gpu}/{offer.gpu_model}"

    def _create(self, row: RowSpec, offer: Offer) -> _Allocation:
        deadline = int(time.time()) + LIFETIME_S
        name = f"{NAME_PREFIX}{self._options.run_id}-{len(self._allocations) + 1}-{deadline}"
        allocation = _Allocation(name=name, offer=offer, key=self._key(row, offer))
        self._ledger.write("intent", name=name, provider=self._provider.name)
        self._allocations.append(allocation)
        try:
            instance = self._create_once(offer, name)
        except AmbiguousCreateError:
            raise
        except GlasshouseError:
            allocation.ended = True
            self._allocations.remove(allocation)
            self._ledger.write("not-created", name=name)
            raise
        allocation.instance_id = instance.instance_id
        if isinstance(instance.access, UnixAccess):
            allocation.address = instance.access.path
        self._ledger.write("created", name=name, instance=instance.instance_id)
        allocation.seen_listed = any(i.name == name for i in self._provider.list())
        if allocation.seen_listed:
            self._ledger.write("listed", name=name)
        try:
            self._boot(allocation)
        except GlasshouseError as error:
            self._end(allocation)
            error.allocation_id = name
            raise
        return allocation

    def _create_once(self, offer: Offer, name: str) -> Instance:
        try:
            return self._provider.create(offer, launch=Launch(name=name))
        except AmbiguousCreateError:
            # Never created again blindly: it may exist. Its name is unique, so the listing can tell.
            until = self._monotonic() + RECONCILE_S
            while self._monotonic() < until:
                for instance in self._provider.list():
                    if instance.name == name:
                        self._ledger.write("adopted", name=name, instance=instance.instance_id)
                        return instance
                self._ending.wait(_POLL_S)
            raise

    def _boot(self, allocation: _Allocation) -> None:
        limit = self._options.boot_timeout_s
        until = self._monotonic() + limit
        while True:
            self._refuse_when_ending()
            try:
                allocation.hello = self._hello(allocation, timeout_s=max(until - self._monotonic(), 0.01))
                break
            except GuestGoneError:
                if self._monotonic() >= until:
                    tail = self._provider.logs(cast("str", allocation.instance_id)).strip().splitlines()[-1:]
                    raise BootTimeoutError(
                        f"allocation {allocation.name} did not boot: expected its agent within {limit:g} s, saw no answer"
                        f"{'; its last words: ' + tail[0] if tail else ''}. It was ended. Raise --glasshouse-boot-timeout "
                        "or try again",
                        allocation_id=allocation.name,
                    ) from None
                self._ending.wait(_POLL_S)
        seen, promised = allocation.hello["gpuModel"], allocation.offer.gpu_model
        if seen != promised:
            raise WrongGpuError(
                f"allocation {allocation.name} has another GPU: expected {promised}, saw {seen}. It was ended before any leg; "
                "pick another offer",
                allocation_id=allocation.name,
            )

    def _hello(self, allocation: _Allocation, *, timeout_s: float) -> dict[str, Json]:
        channel = GuestChannel(allocation.address, allocation_id=allocation.name, timeout_s=timeout_s)
        try:
            return channel.request("hello")
        finally:
            channel.close()

    def _grant(self, allocation: _Allocation) -> Grant:
        hello = allocation.hello
        return Grant(
            grant_id=cast("str", allocation.grant_id),
            allocation_id=allocation.name,
            provider=self._provider.name,
            instance_id=cast("str", allocation.instance_id),
            address=allocation.address,
            gpu_model=cast("str", hello["gpuModel"]),
            gpu_uuid=cast("str | None", hello["gpuUuid"]),
            device=cast("str", hello["device"]),
            archive_sha256=self._provider.archive_sha256,
            reference_source=reference_source(),
            dry_run=self._provider.dry_run,
            simulated=False,
            faults=self._options.faults,
        )

    def _end(self, allocation: _Allocation) -> None:
        if allocation.ended or allocation.instance_id is None:
            return
        try:
            self._provider.terminate(allocation.instance_id)
        except TerminateError as error:
            allocation.problem = str(error)
            self._ledger.write("not-ended", name=allocation.name)
            return
        allocation.ended = True
        self._ledger.write("ended", name=allocation.name)

    def _listed_when_settled(self) -> set[str]:
        """Names the listing shows, once it has had a moment to forget what was just ended."""
        ended = {allocation.name for allocation in self._allocations if allocation.ended}
        until = self._monotonic() + SETTLE_S
        while True:
            alive = {instance.name for instance in self._provider.list()}
            if not alive & ended or self._monotonic() >= until:
                return alive
            time.sleep(_POLL_S)

    def _proof(self) -> Cleanup:
        if not self._allocations:
            return Cleanup(status="nothing-rented")
        alive = self._listed_when_settled()
        told: list[dict[str, Json]] = []
        for allocation in self._allocations:
            if allocation.name in alive:
                status = "leak"
            elif allocation.seen_listed and allocation.ended:
                status = "proven"
            else:
                # The listing never showed it while it ran, so its absence there shows nothing.
                status = "unproven"
            told.append({"name": allocation.name, "status": status, "detail": allocation.problem})
        seen = {entry["status"] for entry in told}
        worst: Literal["leak", "unproven", "proven"] = (
            "leak" if "leak" in seen else "unproven" if "unproven" in seen else "proven"
        )
        named = ", ".join(cast("str", entry["name"]) for entry in told if entry["status"] == worst)
        detail = "" if worst == "proven" else f"{worst}: {named}"
        return Cleanup(status=worst, allocations=tuple(told), detail=detail)


def open_provider(name: str, faults: tuple[str, ...] = ()) -> Provider:
    """The provider called `name`. Raises `ConfigurationError` for an unknown one and for faults it does not play."""
    if name == "mock":
        from pytest_glasshouse.providers.mock import MockProvider

        return MockProvider(faults)
    if faults:
        raise ConfigurationError(f"faults are played by the mock provider only; provider {name} was chosen")
    if name == "local":
        from pytest_glasshouse.providers.local import LocalProvider

        return LocalProvider()
    raise ConfigurationError(f"provider {name!r}: expected mock or local")


def reference_source() -> str:
    """Where the guest archive's reference value comes from: `wheel`, or `checkout` for an editable install."""
    import importlib.metadata
    import json

    try:
        told = importlib.metadata.distribution("pytest-glasshouse").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return "checkout"
    editable = bool(told) and json.loads(told or "{}").get("dir_info", {}).get("editable", False)
    return "checkout" if editable else "wheel"
