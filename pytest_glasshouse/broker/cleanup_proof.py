"""Terminates allocations and proves that they are gone: each is `proven`, a `leak` or `unproven`.

Proven means: `get` says of each instance that there is none, and complete listings that had shown the allocation while it ran
show it no more, several times over a while; or, where the answer to a create was lost, that no listing showed an instance of
its name for `Timing.search_s`. A listing that failed proves nothing.
Used by the broker, while rows run and at the end of a run, by the reaper that outlives it, and by `glasshouse reap`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import GlasshouseError, RateLimitedError
from pytest_glasshouse.providers.base import Cleanup
from pytest_glasshouse.providers.listing import Listing, doubt_in
from pytest_glasshouse.wire.cleanup_status import worst_cleanup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_glasshouse.broker.lease_ledger import LeaseLedger
    from pytest_glasshouse.broker.timing import Clock, Timing
    from pytest_glasshouse.providers.base import Instance, Provider
    from pytest_glasshouse.providers.lease import Lease
    from pytest_glasshouse.wire.canonical import Json
    from pytest_glasshouse.wire.cleanup_status import CleanupStatus


@dataclass(frozen=True, kw_only=True)
class CleanupVerdict:
    """The cleanup status of one lease, and the reason."""

    lease: Lease
    status: CleanupStatus
    reason: str
    #: Whether further polling cannot change it.
    final: bool = False


@dataclass(kw_only=True)
class _Pending:
    lease: Lease
    timing: Timing
    accepted: set[str] = field(default_factory=set)
    alive: set[str] = field(default_factory=set)
    clean_polls: int = 0
    clean_since: float = 0.0
    doubt: str = ""
    verdict: CleanupVerdict | None = None


class Termination:
    """Terminates leases at one or more providers.

    `request` asks for the end of each, once. `poll` also reads listings and states, once; `prove` polls until all is proven.
    """

    def __init__(
        self,
        leases: Sequence[Lease],
        *,
        providers: Mapping[str, Provider],
        timings: Mapping[str, Timing],
        clock: Clock,
        ledger: LeaseLedger | None,
    ) -> None:
        self._providers = providers
        self._clock = clock
        self._ledger = ledger
        self._pause_s = 0.0
        self._pending = [_Pending(lease=lease, timing=timings[lease.provider]) for lease in leases]

    def prove(self) -> tuple[CleanupVerdict, ...]:
        """Poll until everything is proven or the time for it is over; one verdict per lease."""
        began = self._clock.monotonic()
        dirty = 0
        while not self.poll():
            if all(each.verdict or self._overdue(each, began) for each in self._pending):
                break
            dirty = 0 if all(each.verdict or each.clean_polls for each in self._pending) else dirty + 1
            self._clock.wait(self._interval(dirty))
        return self.verdicts()

    def request(self) -> None:
        """Ask for the end of every instance, after a listing has shown it. `prove` repeats what failed."""
        for provider, leases in self._by_provider():
            self._terminate_all(provider, leases)
            for each in leases:
                if each.accepted >= each.lease.instance_ids and not self._alive(provider, each) and not each.doubt:
                    each.lease.quiet_at = self._clock.wall()

    def poll(self) -> bool:
        """Terminate what is there, list, and get. Returns whether every lease is proven to be gone."""
        self._pause_s = 0.0
        for provider, leases in self._by_provider():
            self._poll(provider, leases)
        return all(each.verdict for each in self._pending)

    def verdicts(self) -> tuple[CleanupVerdict, ...]:
        """What is known now. A lease that is not proven is a leak where it was seen last, and unproven where nothing shows it."""
        return tuple(each.verdict or _not_proven(each) for each in self._pending)

    def _by_provider(self) -> Iterator[tuple[Provider, list[_Pending]]]:
        for name in {each.lease.provider for each in self._pending if not each.verdict}:
            yield self._providers[name], [each for each in self._pending if each.lease.provider == name and not each.verdict]

    def _interval(self, dirty: int) -> float:
        open_ones = [each.timing for each in self._pending if not each.verdict]
        if not open_ones:
            return 0.0
        timing = max(open_ones, key=lambda each: each.poll_s)
        steady = max(timing.poll_s, timing.settle_s / max(timing.looks - 1, 1))
        backoff = min(timing.poll_s * 2 ** min(dirty, 10), max(steady, timing.poll_s * 6)) if dirty else steady
        return max(backoff, self._pause_s)

    def _overdue(self, each: _Pending, began: float) -> bool:
        now, lease, timing = self._clock.monotonic(), each.lease, each.timing
        search = max(lease.intent_at + timing.search_s - self._clock.wall(), 0.0) if lease.ambiguous else 0.0
        if each.clean_polls and not each.doubt:
            return now - began > timing.give_up_s + search + timing.settle_s
        return now - began > timing.give_up_s + search

    def _terminate_all(self, provider: Provider, leases: list[_Pending]) -> None:
        unseen = [each for each in leases if not each.lease.seen_listed and each.lease.instance_ids and not each.accepted]
        if unseen and (shown := self._listing(provider, unseen)) is not None:
            # The positive control, as long as there is something to see: without it an absence would show nothing.
            for each in unseen:
                if any(found.name == each.lease.name and found.state != "ended" for found in shown):
                    self._note_listed(each.lease)
        for each in leases:
            each.doubt = ""
            for instance_id in each.lease.instance_ids - (each.accepted - each.alive):
                self._terminate(provider, each, instance_id)

    def _poll(self, provider: Provider, mine: list[_Pending]) -> None:
        self._terminate_all(provider, mine)
        listing = self._listing(provider, mine)
        for each in mine:
            if listing is None:
                continue
            self._read(provider, each, [found for found in listing if found.name == each.lease.name])
        for each in mine:
            self._conclude(each)

    def _listing(self, provider: Provider, mine: list[_Pending]) -> tuple[Instance, ...] | None:
        try:
            shown = provider.list()
        except (GlasshouseError, OSError) as error:
            self._note_pause(error)
            for each in mine:
                each.doubt = f"the listing failed: {error}"
            return None
        if doubt_in(shown):
            # What it shows is ended nevertheless; what it does not show may exist.
            for each in mine:
                each.doubt = f"the listing may not be the whole: {doubt_in(shown)}"
        if isinstance(shown, Listing) and shown.cause is not None:
            self._note_pause(shown.cause)
        return shown

    def _read(self, provider: Provider, each: _Pending, found: list[Instance]) -> None:
        before = set(each.lease.instance_ids)
        alive = {instance.instance_id for instance in found if instance.state != "ended"}
        if found:
            self._note_listed(each.lease)
        for instance in found:
            each.lease.instance_ids.add(instance.instance_id)
            if instance.instance_id not in before and instance.state != "ended":
                # It appeared after the end was requested, or its create's answer was lost.
                self._write("adopted", each.lease, instance=instance.instance_id)
                self._terminate(provider, each, instance.instance_id)
        each.alive = alive | self._alive(provider, each)

    def _alive(self, provider: Provider, each: _Pending) -> set[str]:
        """Those of its instances that the provider still has, each asked for by its id."""
        alive = set()
        for instance_id in list(each.lease.instance_ids):
            try:
                now = provider.get(instance_id)
            except (GlasshouseError, OSError) as error:
                self._note_pause(error)
                each.doubt = f"its state could not be read: {error}"
            else:
                if now is not None and now.state != "ended":
                    alive.add(instance_id)
        return alive

    def _terminate(self, provider: Provider, each: _Pending, instance_id: str) -> None:
        try:
            provider.terminate(instance_id)
        except (GlasshouseError, OSError) as error:
            self._note_pause(error)
            each.lease.problem = str(error)
            self._write("not-ended", each.lease)
            return
        if instance_id not in each.accepted:
            each.accepted.add(instance_id)
            each.lease.ended = True
            self._write("ended", each.lease)

    def _conclude(self, each: _Pending) -> None:
        lease, timing, now = each.lease, each.timing, self._clock.monotonic()
        if each.doubt or each.alive:
            each.clean_polls = 0
            return
        if not each.clean_polls:
            each.clean_since = now
        each.clean_polls += 1
        searched_s = self._clock.wall() - lease.intent_at
        settled = each.clean_polls >= timing.looks and now - each.clean_since >= timing.settle_s
        if not settled or (lease.ambiguous and searched_s < timing.search_s):
            return
        looked = f"{each.clean_polls} complete listing{'s' if each.clean_polls > 1 else ''} over {now - each.clean_since:.0f} s"
        if not lease.instance_ids:
            reason = f"its create call's answer was lost; searched by name for {searched_s:.0f} s, {looked}: it never existed"
        elif lease.seen_listed:
            reason = f"the listing showed it while it ran; {looked} show it no more"
        else:
            reason = "the listing never showed it while it ran, so its absence there shows nothing"
            each.verdict = CleanupVerdict(lease=lease, status="unproven", reason=reason, final=True)
            return
        lease.gone_at = self._clock.wall()
        self._write("gone", lease)
        each.verdict = CleanupVerdict(lease=lease, status="proven", reason=reason, final=True)

    def _note_listed(self, lease: Lease) -> None:
        if not lease.seen_listed:
            lease.seen_listed = True
            self._write("listed", lease)

    def _note_pause(self, error: Exception) -> None:
        if isinstance(error, RateLimitedError) and error.retry_after_s:
            self._pause_s = max(self._pause_s, error.retry_after_s)

    def _write(self, step: str, lease: Lease, **fields: str) -> None:
        if self._ledger is not None:
            self._ledger.write(step, name=lease.name, **fields)


def _not_proven(each: _Pending) -> CleanupVerdict:
    if each.alive:
        why = each.lease.problem or each.doubt or "its end was accepted, and it is still there"
        return CleanupVerdict(lease=each.lease, status="leak", reason=f"still listed: {why}")
    why = each.doubt or each.lease.problem or "not searched for long enough"
    return CleanupVerdict(lease=each.lease, status="unproven", reason=why)


def cleanup_of(allocations: Sequence[dict[str, Json]]) -> Cleanup:
    """The result for all allocations of a run, each with name, `status` and `detail`."""
    if not allocations:
        return Cleanup(status="nothing-rented")
    status = worst_cleanup([str(each["status"]) for each in allocations])
    those = ", ".join(f"{each['name']} ({each['detail']})" for each in allocations if each["status"] == status)
    return Cleanup(status=status, allocations=tuple(allocations), detail="" if status == "proven" else f"{status}: {those}")
