"""Connections to guests on other machines: one session per lease, over a route that depends on the place.

`RoutedConnection` is for places that know the way to their guests. For rented ones, which get keys of the run, see
`rented_connection`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pytest_glasshouse.channel.archive import guest_archive
from pytest_glasshouse.channel.guest_session import GuestSession
from pytest_glasshouse.channel.pod_launch import LEASE_S
from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.base import Launch, SpansNodes
from pytest_glasshouse.providers.places import boot_timeout_of, queue_timeout_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.channel.tunnel import Route
    from pytest_glasshouse.providers.base import Access, Provider, Routed
    from pytest_glasshouse.providers.lease import Lease

#: How much longer than the boot timeout a guest waits for the host: the host ends a late guest first.
CONTACT_GRACE_S = 600.0


class TunnelConnection:
    """The sessions of one run's guests. A subclass says what is launched, and which route leads there."""

    def __init__(self, *, emit: Callable[[str, str], None], archive: Callable[[], bytes]) -> None:
        self._emit = emit
        self._archive = archive
        #: By lease and node.
        self._sessions: dict[tuple[str, int], GuestSession] = {}
        self._secrets: dict[str, None] = {}

    def route(self, lease: Lease) -> Route:
        """A new route to the guest of `lease`."""
        raise NotImplementedError

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        """See `Connection.connect`."""
        return self._connect(lease, access, 0, timeout_s=timeout_s)

    def node_route(self, lease: Lease, node: int) -> Route:
        """A new route to the guest on another node of `lease`."""
        raise ConfigurationError(f"allocation {lease.name}: expected one node, saw node {node}")

    def connect_node(self, lease: Lease, access: Access, node: int, *, timeout_s: float) -> str:
        """See `Connection.connect_node`."""
        return self._connect(lease, access, node, timeout_s=timeout_s)

    def _connect(self, lease: Lease, access: Access, node: int, *, timeout_s: float) -> str:
        session = self._sessions.get((lease.name, node))
        if session is None:
            route = self.node_route(lease, node) if node else self.route(lease)
            session = GuestSession(route, allocation=lease.name, archive=self._archive())
            self._sessions[lease.name, node] = session
        on_node = f"node {node}: " if node else ""
        path = session.connect(access, timeout_s=timeout_s, on_phase=lambda what: self._emit(lease.name, on_node + what))
        self.remember(*session.secrets())
        return path

    def shut_down(self, lease: Lease) -> None:
        """See `Connection.shut_down`."""
        for (name, _), session in [*self._sessions.items()]:
            if name == lease.name:
                session.shut_down()

    def disconnect(self, lease: Lease) -> None:
        """See `Connection.disconnect`."""
        for key in [key for key in self._sessions if key[0] == lease.name]:
            if (session := self._sessions.pop(key, None)) is not None:
                session.close()

    def secrets(self) -> tuple[str, ...]:
        """Addresses and keys of every guest this run ever connected to."""
        return tuple(self._secrets)

    def remember(self, *values: str) -> None:
        """Add what must not be published."""
        self._secrets.update(dict.fromkeys(values))


class RoutedConnection(TunnelConnection):
    """Connects the guests of a place that knows the way to them. Such a launch has no image and no keys, only limits."""

    def __init__(
        self,
        provider: Routed,
        *,
        boot_timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        emit: Callable[[str, str], None] = lambda _name, _what: None,
        wall: Callable[[], float] = time.time,
        archive: Callable[[], bytes] = guest_archive,
    ) -> None:
        super().__init__(emit=emit, archive=archive)
        self._provider = provider
        self._boot_timeout_s = boot_timeout_s
        self._queue_timeout_s = queue_timeout_s
        self._wall = wall

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        """A guest that ends itself at the lease's deadline, and earlier where nobody calls it."""
        boot_s = boot_timeout_of(provider.name, self._boot_timeout_s)
        queue_s = queue_timeout_of(provider.name, self._queue_timeout_s)
        return Launch(
            name=lease.name,
            deadline=lease.deadline,
            contact_by=self._wall() + queue_s + boot_s + CONTACT_GRACE_S,
            lease_s=LEASE_S,
            queue_s=queue_s,
        )

    def route(self, lease: Lease) -> Route:
        """The place's own."""
        return self._provider.route(lease.name)

    def node_route(self, lease: Lease, node: int) -> Route:
        """The place's own."""
        if not isinstance(self._provider, SpansNodes):
            return super().node_route(lease, node)
        return self._provider.node_route(lease.name, node)
