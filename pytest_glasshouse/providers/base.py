"""What a provider is: a place that gives allocations, lists them and ends them.

Nothing here waits or retries: the broker does, so that every provider is waited for in the same way. Every error
after `create` carries the allocation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json

#: States a provider's own words are mapped to; a word nobody knows is `unknown`, never an error.
State = Literal["pending", "running", "ended", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """Something a provider would give for a row. `gpu_model` is what it promises; prices in USD per hour."""

    provider: str
    gpu_model: str
    price_usd_per_hour: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One allocation as the provider's listing shows it."""

    instance_id: str
    name: str
    state: State


class Provider(Protocol):
    """One place to get allocations from."""

    name: str
    #: Whether an allocation costs money, and whether its rows can be published.
    rents: bool
    dry_run: bool
    #: SHA-256 of the guest archive this provider's guests must run: the policy's reference value.
    archive_sha256: str
    #: Whether every allocation is this very machine, so that only one may be in use at a time.
    this_machine: bool

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """What could be had for `row`, cheapest first. Raises `NoCapacityError` for nothing."""
        ...

    def create(self, offer: Offer, *, name: str) -> Instance:
        """Ask once. Raises `NoCapacityError` (nothing exists) or `AmbiguousCreateError` (it may exist)."""
        ...

    def list(self) -> tuple[Instance, ...]:
        """Every allocation of this project the provider knows, whoever made it."""
        ...

    def terminate(self, instance_id: str) -> None:
        """End one; ending one that is gone is no error. Raises `TerminateError`."""
        ...

    def address(self, instance_id: str) -> str:
        """The unix socket at which its agent answers, or will."""
        ...

    def logs(self, instance_id: str) -> str:
        """What its guest printed, for error texts."""
        ...

    def play(self, instance_id: str, act: str) -> None:
        """Play one act of a fault from outside (mock); anything else refuses."""
        ...


@dataclass(frozen=True, kw_only=True)
class Grant:
    """The right to use one allocation for one row. Plain values: it travels to xdist workers as JSON."""

    grant_id: str
    allocation_id: str
    provider: str
    instance_id: str
    address: str
    gpu_model: str
    gpu_uuid: str | None
    device: str
    archive_sha256: str
    reference_source: str
    dry_run: bool
    simulated: bool
    faults: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As a JSON object."""
        return {**self.__dict__, "faults": list(self.faults)}

    @classmethod
    def from_json(cls, fields: dict[str, Json]) -> Grant:
        """What `to_json` wrote."""
        faults = fields["faults"]
        values = {**fields, "faults": tuple(faults) if isinstance(faults, list) else ()}
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """Whether everything that was created is gone. Only `proven` and `nothing-rented` pass."""

    status: Literal["proven", "leak", "unproven", "nothing-rented"]
    allocations: tuple[dict[str, Json], ...] = field(default=())
    detail: str = ""
