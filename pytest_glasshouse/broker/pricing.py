"""The estimated cost of a run before anything is rented, and its cost so far by the clock.

Both err upwards: time counts from the intent until the provider says that the allocation is gone. This module knows prices and
seconds, and sends no request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import BudgetError
from pytest_glasshouse.rows.row_time import row_time
from pytest_glasshouse.wire.text_table import Column, text_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_glasshouse.providers.base import Offer
    from pytest_glasshouse.providers.lease import Lease
    from pytest_glasshouse.rows.spec import RowSpec

#: Seconds of an allocation beside its legs: boot with a cold image and bootstrap, and the proof that it is gone.
BOOT_S = 420.0
CLEANUP_S = 90.0
#: Seconds of a leg beside warm-up and target: imports, attestation, loading, export, zeroize.
SETUP_S = 45.0
#: Assumed bytes per second at which a base model reaches a guest, verification included.
MODEL_BYTES_PER_S = 40e6
#: Disk of an allocation beside base models, in GB: what the image's container writes.
DISK_GB = 40


@dataclass(frozen=True, kw_only=True)
class PriceLine:
    """One line of the price table: rows on the same GPU, their time and price."""

    provider: str
    gpu_model: str
    price_usd_per_hour: float
    rows: int
    seconds: float
    allocations: int = 1
    gpus: int = 1
    """GPUs of each allocation; the price is of all of them."""

    @property
    def cost_usd(self) -> float:
        """The estimated cost."""
        return self.seconds / 3600 * self.price_usd_per_hour


@dataclass(frozen=True, kw_only=True)
class Quote:
    """The price table of a run, made before anything is rented.

    `unavailable` names the rows without an offer, with the reason; `required` is what every machine must have.
    """

    lines: tuple[PriceLine, ...]
    unavailable: tuple[str, ...] = ()
    required: str = ""

    @property
    def cost_usd(self) -> float:
        """The estimate for everything together."""
        return sum(line.cost_usd for line in self.lines)

    def check(self, budget_usd: float | None) -> None:
        """Raises `BudgetError` where the estimate is above the budget."""
        if budget_usd is not None and self.cost_usd > budget_usd:
            raise BudgetError(
                f"the estimate is {self.cost_usd:.2f} USD and the budget {budget_usd:.2f} USD: nothing was rented. "
                "Select fewer rows, shorten them with --glasshouse-leg-seconds, or raise --glasshouse-budget"
            )


def row_seconds(row: RowSpec) -> float:
    """The estimated time of a row on an allocation that is ready."""
    found = row_time(row)
    return found.total_s - found.starts_s - found.loads_s + found.rounds * 2 * SETUP_S


def model_seconds(rows: Iterable[RowSpec], model_bytes: Mapping[str, int], *, shared: bool) -> float:
    """The estimated time until the base models of `rows` are on their allocations: each once on every one."""
    names = [row.model for row in rows if row.model is not None]
    return sum(model_bytes.get(name, 0) for name in (set(names) if shared else names)) / MODEL_BYTES_PER_S


def disk_gb(model_bytes: Mapping[str, int], *, shared: bool) -> int:
    """The disk to ask for: one allocation gets all of these base models with `shared`, or one of them."""
    sizes = [0, *model_bytes.values()]
    return DISK_GB + math.ceil((sum(sizes) if shared else max(sizes)) / 1e9)


_PRICES = (
    Column(head="provider", importance=9),
    Column(head="gpu", importance=8),
    Column(head="rows", importance=1, number=True),
    Column(head="time", importance=2, number=True),
    Column(head="USD/h", importance=3, number=True),
    Column(head="USD", importance=9, number=True),
)


def quote(
    priced: Sequence[tuple[RowSpec, Offer]],
    *,
    shared: bool,
    unavailable: Sequence[str] = (),
    model_bytes: Mapping[str, int] = MappingProxyType({}),
    required: str = "",
) -> Quote:
    """The table for rows and the offer each would get. With `shared`, rows of one provider and GPU run on one allocation.

    `model_bytes`: by the model of a row, the size of what has to reach the guest.
    """
    groups: dict[tuple[str, str, str, int], list[tuple[RowSpec, Offer]]] = {}
    for row, offer in priced:
        groups.setdefault((offer.provider, row.gpu, offer.gpu_model, offer.gpus), []).append((row, offer))
    lines = []
    for (provider, _, gpu_model, gpus), group in sorted(groups.items()):
        allocations = 1 if shared else len(group)
        lines.append(
            PriceLine(
                provider=provider,
                gpu_model=gpu_model,
                price_usd_per_hour=max(offer.price_usd_per_hour for _, offer in group),
                rows=len(group),
                seconds=allocations * (BOOT_S + CLEANUP_S)
                + model_seconds((row for row, _ in group), model_bytes, shared=shared)
                + sum(row_seconds(row) for row, _ in group),
                allocations=allocations,
                gpus=gpus,
            )
        )
    return Quote(lines=tuple(lines), unavailable=tuple(unavailable), required=required)


def table(quoted: Quote, *, budget_usd: float | None, width: int | None = None) -> Iterator[str]:
    """The price table as lines, none longer than `width`, and what it comes to."""
    cells = [
        (
            line.provider,
            line.gpu_model if line.gpus == 1 else f"{line.gpus} x {line.gpu_model}",
            str(line.rows),
            duration(line.seconds),
            f"{line.price_usd_per_hour:.2f}",
            f"{line.cost_usd:.2f}",
        )
        for line in quoted.lines
    ]
    yield from text_table(_PRICES, cells, width=width)
    for name in quoted.unavailable:
        yield f"no offer now: {name}"
    if quoted.required:
        yield f"each machine has at least: {quoted.required}"
    limit = "no budget" if budget_usd is None else f"budget {budget_usd:.2f} USD, enforced while it runs"
    yield f"estimate {quoted.cost_usd:.2f} USD; {limit}"


def duration(seconds: float) -> str:
    """Hours and minutes, rounded up."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"


def spent_usd(leases: Iterable[Lease], now: float) -> float:
    """The cost of all leases until `now` (wall clock)."""
    return sum(lease.cost_usd(now) for lease in leases)


def seconds_left(leases: Iterable[Lease], *, budget_usd: float, now: float) -> float:
    """How long the budget pays for the leases that still cost something; never below 0, infinite where none does."""
    known = list(leases)
    rate = sum(lease.price_usd_per_hour for lease in known if not lease.over and lease.quiet_at is None)
    left = max(budget_usd - spent_usd(known, now), 0.0)
    return left / rate * 3600 if rate > 0 else math.inf
