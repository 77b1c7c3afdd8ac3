"""Whether anything that a run created can still exist: its allocations, and those of its earlier attempts.

What became of earlier ones is in their report, or follows from their ledger and the listing of now. A listing that fails, or
may be a part of the whole, shows that something exists and never that something does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.report.document import AllocationCleanup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_glasshouse.broker.broker import Broker
    from pytest_glasshouse.providers.base import Cleanup
    from pytest_glasshouse.run.plan import RunInputs
    from pytest_glasshouse.run.resume import EarlierAllocation, EarlierRun
    from pytest_glasshouse.wire.cleanup_status import CleanupStatus


class RunCleanup:
    """The end of a run's allocations. `broker` is None where no row was selected: then there are none."""

    def __init__(self, broker: Broker | None, inputs: RunInputs, *, run_id: str) -> None:
        self._broker = broker
        self._inputs = inputs
        self._run_id = run_id
        self._ended: Cleanup | None = None
        self._earlier: tuple[AllocationCleanup, ...] | None = None

    def end_all(self) -> None:
        """End what was rented; once."""
        if self._broker is not None and self._ended is None:
            self._ended = self._broker.end_all()

    @property
    def is_proven(self) -> bool:
        """Whether nothing of this run, its earlier attempts too, can still exist."""
        if self._broker is None:
            return True
        if any(each.status != "proven" for each in self._of_earlier_attempts()):
            return False
        return self._ended is not None and self._ended.status in ("proven", "nothing-rented")

    @property
    def allocations(self) -> tuple[AllocationCleanup, ...]:
        """Every allocation of the run, and what its provider's listing showed."""
        return (*self._of_earlier_attempts(), *self._own())

    @property
    def leftovers(self) -> str:
        """The allocations that may still exist, by name."""
        return ", ".join(each.name for each in self._own() if each.status != "proven") or "an allocation of this run"

    @property
    def by_hand(self) -> Iterator[str]:
        """What a person can do about each allocation that may still exist."""
        from pytest_glasshouse.providers.registry import REMOTE, manual_stop

        for each in self._own():
            if each.status != "proven" and each.provider in REMOTE:
                command = f"glasshouse reap --provider {each.provider} --run {self._run_id}"
                yield f"{each.name}: {each.reason}"
                yield f"  {command}; or {manual_stop(each.provider, each.provider_instance_id)}"

    def _own(self) -> Iterator[AllocationCleanup]:
        ended: tuple[Any, ...] = () if self._ended is None else self._ended.allocations
        for each in ended:
            yield AllocationCleanup(
                provider=each.get("provider") or self._inputs.options.provider,
                name=each["name"],
                provider_instance_id=each.get("instanceId"),
                status=each["status"],
                reason=each.get("detail") or "the provider's listing showed it while it ran and shows it no more",
            )

    def _of_earlier_attempts(self) -> tuple[AllocationCleanup, ...]:
        """Asked once, after the allocations of this attempt were ended."""
        if self._inputs.earlier is None or self._broker is None:
            return ()
        if self._earlier is None:
            self._earlier = tuple(_earlier_cleanups(self._inputs.earlier, self._broker))
        return self._earlier


def _earlier_cleanups(earlier: EarlierRun, broker: Broker) -> Iterator[AllocationCleanup]:
    """One for each allocation that an earlier attempt may have made; each provider is asked once."""
    listed: dict[str, tuple[set[str], str]] = {}
    for each in earlier.allocations:
        provider = each.provider or earlier.provider
        if provider not in listed:
            listed[provider] = _listed(broker, provider)
        status, reason = _judged(each, *listed[provider])
        yield AllocationCleanup(
            provider=provider, name=each.name, provider_instance_id=each.instance_id, status=status, reason=reason
        )


def _listed(broker: Broker, provider: str) -> tuple[set[str], str]:
    """The names that `provider` lists of what has not ended, and why there may be more."""
    from pytest_glasshouse.providers.listing import doubt_in

    try:
        listing = broker.listing(provider)
    except (GlasshouseError, OSError) as error:
        return set(), f"the listing failed: {error}"
    doubt = doubt_in(listing)
    return {each.name for each in listing if each.state != "ended"}, doubt and f"the listing may not be the whole: {doubt}"


def _judged(each: EarlierAllocation, alive: set[str], doubt: str) -> tuple[CleanupStatus, str]:
    if each.name in alive:
        return "leak", "an earlier attempt made it, and the listing still shows it"
    if each.status is not None:
        return each.status, each.reason
    if doubt:
        return "unproven", f"an earlier attempt made it, and {doubt}"
    if each.listed:
        return "proven", "the listing showed it in an earlier attempt and shows it no more"
    return "unproven", "an earlier attempt asked for it, and no listing ever showed it"
