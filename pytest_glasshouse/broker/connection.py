"""Connections to guests, as the broker needs them: from an instance to the socket of its agent.

Guests on this machine need nothing more than their socket's path. For rented ones see `rented_connection`.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from pytest_glasshouse.errors import ConfigurationError, GlasshouseError
from pytest_glasshouse.providers.base import Launch, UnixAccess

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import Access, Provider
    from pytest_glasshouse.providers.lease import Lease


class Connection(Protocol):
    """Launches, connects and shuts down the guests of one run. What it stores is in memory, or in files of mode 0700."""

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        """What is started under this lease's name. Makes the keys, one set per lease."""
        ...

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        """Connect to the guest, install and start its agent; returns the path of a local socket that leads to it.

        Raises `InfrastructureError` after `timeout_s` at the latest.
        """
        ...

    def connect_node(self, lease: Lease, access: Access, node: int, *, timeout_s: float) -> str:
        """As `connect`, to the guest on another node than the first of an allocation that has several."""
        ...

    def shut_down(self, lease: Lease) -> None:
        """Ask the guest to zeroize, without waiting for it: best effort, at most a second."""
        ...

    def disconnect(self, lease: Lease) -> None:
        """Close the connection and forget the lease's keys. Does nothing for a lease that was never connected."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """Addresses and keys that must not be published."""
        ...


class LocalConnection:
    """Connections to guests that are processes of this machine: their socket is their address."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        """Only the name: the provider starts the guest itself."""
        del provider
        return Launch(name=lease.name)

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        """The socket's own path."""
        del timeout_s
        if not isinstance(access, UnixAccess):
            raise ConfigurationError(
                f"allocation {lease.name}: expected a guest of this machine, saw one that is reached over SSH"
            )
        self._addresses[lease.name] = access.path
        return access.path

    def connect_node(self, lease: Lease, access: Access, node: int, *, timeout_s: float) -> str:
        """Raises `ConfigurationError`: this machine is one."""
        del access, timeout_s
        raise ConfigurationError(f"allocation {lease.name}: expected one node, saw node {node}")

    def shut_down(self, lease: Lease) -> None:
        """Nothing to do: a guest of this machine ends with its pipe, and its legs with it."""

    def disconnect(self, lease: Lease) -> None:
        """Nothing to do: no connection is open."""

    def secrets(self) -> tuple[str, ...]:
        """The paths of the guests' sockets."""
        return tuple(self._addresses.values())


def shut_down_quietly(connection: Connection, lease: Lease) -> None:
    """Shut the guest down where that works: the end of its allocation does not wait for it."""
    with contextlib.suppress(GlasshouseError, OSError):
        connection.shut_down(lease)
