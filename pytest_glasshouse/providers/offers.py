"""The offers that meet the requirements, within the user's price cap, cheapest first, for every provider."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import NoCapacityError
from pytest_glasshouse.providers.base import Offer
from pytest_glasshouse.rows.spec import GPU_MODELS, RowSpec

if TYPE_CHECKING:
    from pytest_glasshouse.providers.requirements import RequirementFilter


def models_for(row: RowSpec) -> tuple[str, ...]:
    """The GPU models that `row` may run on."""
    return (row.gpu_model,) if row.gpu_model is not None else tuple(GPU_MODELS.values())


def number(value: object) -> float | None:
    """A JSON number as a float; None for anything else, and for a number that is not finite."""
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def price_from(value: object) -> float | None:
    """A price in US dollars per hour; None for what cannot be one, such as NaN: no comparison with a budget would hold."""
    price = number(value)
    return price if price is not None and price > 0 else None


def affordable(
    offers: Iterable[Offer],
    *,
    row: RowSpec,
    provider: str,
    max_price_usd_per_hour: float | None,
    required: RequirementFilter | None = None,
) -> tuple[Offer, ...]:
    """Offers within the cap. `required` is what chose them among all that the provider has.

    Raises `NoCapacityError`, which names what excluded the others, and the cheapest one seen.
    """
    ordered = tuple(sorted(offers, key=lambda offer: (offer.price_usd_per_hour, offer.gpu_model, offer.offer_id)))
    wanted = row.gpu_model or "a GPU"
    excluded = "" if required is None else required.exclusions()
    if not ordered and required is not None and excluded:
        advice = required.advice()
        raise NoCapacityError(
            f"{provider}: no offer for {wanted} has what is required: {excluded}. Nothing was created; "
            f"{f'lower {advice}, or ' if advice else ''}try again later"
        )
    if not ordered:
        raise NoCapacityError(f"{provider}: nothing offered for {wanted} now. Nothing was created; try again later")
    within = tuple(
        offer for offer in ordered if max_price_usd_per_hour is None or offer.price_usd_per_hour <= max_price_usd_per_hour
    )
    if not within:
        cheapest = ordered[0]
        others = f"; {excluded}" if excluded else ""
        raise NoCapacityError(
            f"{provider}: every offer for {wanted} is above {max_price_usd_per_hour:g} USD per hour; the cheapest seen is "
            f"{cheapest.price_usd_per_hour:g} ({cheapest.gpu_model}){others}. Nothing was created; raise --glasshouse-max-price "
            "or wait"
        )
    return within
