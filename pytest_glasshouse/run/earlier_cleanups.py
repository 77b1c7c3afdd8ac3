"""What became of the allocations of a run's earlier attempts: by their report, or by their ledger and the listing of now.

A listing that fails, or may be a part of the whole, shows that something exists and never that something does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_glasshouse.errors import GlasshouseError
from pytest_glasshouse.report.document import AllocationCleanup

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_glasshouse.run.engine import BrokerLike
    from pytest_glasshouse.run.resume import Earlier


def earlier_cleanups(earlier: Earlier, broker: BrokerLike) -> Iterator[AllocationCleanup]:
    """One for each allocation that an earlier attempt may have made; its own provider is asked, each one once."""
    shown: dict[str, tuple[set[str], str]] = {}
    for each in earlier.allocations:
        provider = str(each.get("provider") or earlier.provider)
        if provider not in shown:
            shown[provider] = _shown(broker, provider)
        status, reason = _judged(each, *shown[provider])
        yield AllocationCleanup(
            provider=provider, name=each["name"], provider_instance_id=each["instance"], status=status, reason=reason
        )


def _shown(broker: BrokerLike, provider: str) -> tuple[set[str], str]:
    """The names that `provider` lists of what has not ended, and why there may be more."""
    from pytest_glasshouse.providers.listing import doubt_in

    try:
        shown = broker.listing(provider)
    except (GlasshouseError, OSError) as error:
        return set(), f"the listing failed: {error}"
    doubt = doubt_in(shown)
    return {each.name for each in shown if each.state != "ended"}, doubt and f"the listing may not be the whole: {doubt}"


def _judged(each: Mapping[str, Any], alive: set[str], doubt: str) -> tuple[Any, str]:
    if each["name"] in alive:
        return "leak", "an earlier attempt made it, and the listing still shows it"
    if each.get("status") is not None:
        return each["status"], each["reason"]
    if doubt:
        return "unproven", f"an earlier attempt made it, and {doubt}"
    if each["listed"]:
        return "proven", "the listing showed it in an earlier attempt and shows it no more"
    return "unproven", "an earlier attempt asked for it, and no listing ever showed it"
