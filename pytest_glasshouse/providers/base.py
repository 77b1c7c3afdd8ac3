"""The interface of a provider, which creates, lists and ends allocations, and the values it takes and returns.

A provider neither waits nor retries: the broker does, in the same way for all of them. Every error after `create` carries the
allocation.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, Self, runtime_checkable

from pytest_glasshouse.channel.access import Access, Host, Port, SshAccess, UnixAccess
from pytest_glasshouse.errors import IntegrityError, ProviderError
from pytest_glasshouse.wire.cleanup_status import CleanupStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from pytest_glasshouse.channel.tunnel import Route
    from pytest_glasshouse.providers.requirements import CudaVersion
    from pytest_glasshouse.rows.spec import RowSpec
    from pytest_glasshouse.wire.canonical import Json

__all__ = [
    "Access",
    "Cleanup",
    "GpuUse",
    "Grant",
    "Instance",
    "InstanceId",
    "InstanceState",
    "Launch",
    "Offer",
    "PlaceCheck",
    "Provider",
    "Queued",
    "Routed",
    "SshAccess",
    "UnixAccess",
]  # fmt: skip

#: Letters that need no quoting in a URL's path, a GraphQL string, a shell's word and a ledger's line.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class InstanceId(str):
    """A provider's id of an instance: no dots and slashes that would change a path, nothing to quote."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        """Raises `IntegrityError` (`malformed`)."""
        if isinstance(text, str) and _ID.fullmatch(text):
            return super().__new__(cls, text)
        raise IntegrityError("malformed", "expected an instance's id of 1 to 64 letters, digits, - and _")


#: What a provider's states are mapped to; one that is not known is `unknown`, never an error. A `running` instance is
#: ready only once its agent has answered. `stopped` and `failed` ones still bill, `ended` ones do not. A `queued` one waits
#: for a GPU that others use: it costs nothing, its boot has not begun, and `detail` says what it waits for.
InstanceState = Literal["queued", "pending", "running", "stopped", "failed", "lost", "ended", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """An offer of a provider for a row: the GPU model it promises, and the price of all its `gpus` together in USD per hour.

    `offer_id` is the provider's id of it, where it has one; only that provider reads it. `machine` names the one GPU that is
    offered, where it is a certain one: then a second allocation of it cannot be had.
    """

    provider: str
    gpu_model: str
    price_usd_per_hour: float = 0.0
    offer_id: str = ""
    machine: str = ""
    #: How many GPUs it holds, on how many machines together.
    gpus: int = 1
    nodes: int = 1


@dataclass(frozen=True, kw_only=True)
class Launch:
    """What is started on an offer. `name` is never used twice; `env` may hold secrets, so `repr` hides it.

    `image` is pinned by digest. `start` is the command of the container's first process, `public_key` the run's SSH
    key in OpenSSH's one-line form. A guest on this machine needs none of them, and one of a place that is no container only
    the limits: it ends itself at `deadline`, where its host made no contact by `contact_by` (both in seconds since 1970), and
    without contact for `lease_s`. `queue_s` is how long it may wait for a GPU that others use.
    """

    name: str
    image: str = ""
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    start: tuple[str, ...] = field(default=(), repr=False)
    public_key: str = ""
    disk_gb: int = 40
    deadline: float = 0.0
    contact_by: float = 0.0
    lease_s: float = 0.0
    queue_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class GpuUse:
    """What else used the GPU when the allocation was made: how many processes of others, and their memory on it."""

    processes: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One instance as the provider shows it. `raw_state` is the provider's own; `access` is None while there is no address.

    `unusable` says which field of the address is wrong, and why: the instance can be ended and never connected to.
    Raises `IntegrityError` (`malformed`) for an id that is no `InstanceId`.
    """

    instance_id: str
    name: str
    state: InstanceState
    raw_state: str = ""
    access: Access | None = None
    gpu_model: str | None = None
    price_usd_per_hour: float | None = None
    detail: str = ""
    unusable: str = ""
    #: The newest CUDA version that the machine's driver supports, where the provider shows it.
    cuda: CudaVersion | None = None
    #: Why it will never run as it was asked for: asking again would change nothing.
    refused: str = ""
    #: Since when it runs, in seconds since 1970, where its place says so: what it did before costs nothing.
    started_at: float | None = None
    gpu_use: GpuUse = field(default_factory=GpuUse)

    def __post_init__(self) -> None:
        object.__setattr__(self, "instance_id", InstanceId(self.instance_id))


def checked_id(provider: str, value: object) -> InstanceId:
    """An id from a provider or for one. Raises `ProviderError`."""
    try:
        return InstanceId(value)
    except IntegrityError as error:
        raise ProviderError(f"{provider}: not the id of a pod or an instance: {error.detail}") from None


def ssh_access(
    provider: str, *, host: tuple[str, object], port: tuple[str, object], read_port: Callable[[object], Port] = Port
) -> tuple[SshAccess | None, str]:
    """The address of an instance's port 22, from the names and values of two fields; or None and what is wrong with them.

    None and an empty text while a field is empty, as both are until the instance runs.
    """
    if host[1] in (None, "") or port[1] in (None, "", 0, "0"):
        return None, ""
    readers: tuple[tuple[tuple[str, object], Callable[[object], object]], ...] = ((host, Host), (port, read_port))
    for (name, value), read in readers:
        try:
            read(value)
        except IntegrityError as error:
            return None, f"{provider}: field {name}: {error.detail}"
    return SshAccess(host=Host(host[1]), port=read_port(port[1])), ""


@dataclass(frozen=True, kw_only=True)
class Account:
    """The state of the account, for a preflight. None where the API does not show it."""

    balance_usd: float | None = None
    #: The provider's clock, seconds since 1970.
    server_time_s: float | None = None


class Provider(Protocol):
    """A source of allocations."""

    name: str
    #: Where its API answers; empty for a provider that is this machine.
    base_url: str
    #: How long to leave between two reads of the same kind. A provider that refuses faster ones throttles them itself.
    poll_s: float
    #: Whether an allocation costs money, and whether its rows can be published.
    rents: bool
    dry_run: bool
    #: SHA-256 of the guest archive this provider's guests must run: the policy's reference value.
    archive_sha256: str
    #: Whether every allocation is this machine, so that only one may be in use at a time and nothing of it outlives the run.
    this_machine: bool

    @property
    def simulated(self) -> bool:
        """Whether something stands in for the place: an API that is not the provider's own, a host without a GPU."""
        ...

    def offers(self, row: RowSpec) -> tuple[Offer, ...]:
        """The offers for `row`, cheapest first. Raises `NoCapacityError` where there is none."""
        ...

    def create(self, offer: Offer, *, launch: Launch) -> Instance:
        """Send one create request. Raises `AmbiguousCreateError` where it may exist; after any other error nothing exists."""
        ...

    def get(self, instance_id: str) -> Instance | None:
        """The instance now; None only where the provider says that there is none. Raises `InfrastructureError`."""
        ...

    def list(self) -> tuple[Instance, ...]:
        """Every instance of this project that the provider shows, of any run and user of the account.

        Where more may exist, it is a `Listing` with a doubt (`listing.doubt_in`). Raises where it shows nothing at all.
        """
        ...

    def terminate(self, instance_id: str) -> None:
        """End the instance; ending one that is gone is no error. Raises `TerminateError`."""
        ...

    def logs(self, instance_id: str) -> str:
        """What its guest printed, for messages."""
        ...

    def account(self) -> Account:
        """The account's balance and clock; shows that the key is accepted. Raises `CredentialsError`, `ProviderError`."""
        ...

    def may_create(self) -> bool:
        """Whether the key may create; False where only a create request could show that. Creates nothing.

        Raises `CredentialsError` for a key without that right.
        """
        ...

    def secrets(self) -> tuple[str, ...]:
        """What must never be published: the account's key, and credentials of a proxy."""
        ...

    def inject_fault(self, instance_id: str, action: str) -> None:
        """Play one step of a fault from outside (mock only; others raise `ConfigurationError`)."""
        ...


@dataclass(frozen=True, kw_only=True)
class PlaceCheck:
    """One line of `glasshouse doctor`: what was looked at, how it is, and how it is put right. `warn` prevents no row."""

    mark: Literal["ok", "warn", "FAIL"]
    what: str
    detail: str
    fix: str = ""


@runtime_checkable
class Routed(Protocol):
    """A provider that knows the way to its guests, such as one of machines the user can reach; the run makes no keys for it."""

    def checks(self) -> Iterable[PlaceCheck]:
        """What would keep rows from running there, one line each."""
        ...

    def route(self, name: str) -> Route:
        """The way to the guest of the allocation called `name`, not yet aimed at an address."""
        ...


@runtime_checkable
class SpansNodes(Protocol):
    """A place whose allocation may be several machines, each with a guest of its own."""

    def node_route(self, name: str, node: int) -> Route:
        """As `Routed.route`, to the guest on one node of several, counted from 0."""
        ...


@runtime_checkable
class Queued(Protocol):
    """A provider whose allocations wait in a queue, and may be taken away again by others."""

    def lifetime_s(self, work_s: float) -> float:
        """How long an allocation for that many seconds of work may exist: its time in the queue, and its own time limit."""
        ...

    def check_offer(self, offer: Offer, *, lifetime_s: float) -> None:
        """Let the engine check what `create` would ask for. Raises `ConfigurationError` for what it refuses; creates nothing."""
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
    #: Whether its guest is on another machine, behind a tunnel: rented, or one of the user's own.
    remote: bool = False
    #: Whether others may suspend, requeue or end it: then a row that ended well may have stood still meanwhile.
    preemptible: bool = False
    #: What else used the GPU when the allocation was made, in processes and MiB of its memory.
    other_processes: int = 0
    other_memory_mib: int = 0
    faults: tuple[str, ...] = ()
    #: Of an allocation over several machines, the addresses of the guests on all but the first, in the order of the nodes.
    node_addresses: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As a JSON object."""
        return {**self.__dict__, "faults": list(self.faults), "node_addresses": list(self.node_addresses)}

    @classmethod
    def from_json(cls, fields: dict[str, Json]) -> Grant:
        """What `to_json` wrote."""
        lists = {name: fields.get(name) for name in ("faults", "node_addresses")}
        values = {**fields, **{name: tuple(found) if isinstance(found, list) else () for name, found in lists.items()}}
        return cls(**values)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Cleanup:
    """Whether everything that was created is gone: the worst status of all. Only `proven` and `nothing-rented` pass."""

    status: CleanupStatus | Literal["nothing-rented"]
    allocations: tuple[dict[str, Json], ...] = field(default=())
    detail: str = ""
