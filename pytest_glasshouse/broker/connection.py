"""The way from an instance to its agent's socket, as the broker needs it. On this machine there is nothing to do.

What reaches guests elsewhere is the channel room's; this module only knows the shape.
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
    """Launches, connections and shutdowns of the guests of one run. Everything it keeps, it keeps in memory or mode 0700."""

    def launch(self, lease: Lease, provider: Provider) -> Launch:
        """What is started under this lease's name. Keys are made here, one set per lease."""
        ...

    def connect(self, lease: Lease, access: Access, *, timeout_s: float) -> str:
        """Reach the guest, install and start its agent; the path of a socket of this machine that leads to it.

        Raises `InfrastructureError` after `timeout_s` at the latest.
        """
        ...

    def shut_down(self, lease: Lease) -> None:
        """Tell the guest to zeroize, without waiting for it: best effort, at most a second."""
        ...

    def leave(self, lease: Lease) -> None:
        """Hang up and forget the lease's keys. Harmless for one that was never reached."""
        ...

    def secrets(self) -> tuple[str, ...]:
        """What must not be published."""
        ...


class Nearby:
    """Guests that are processes of this machine: their socket is their address."""

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
            raise ConfigurationError(f"allocation {lease.name} is elsewhere; expected a guest of this machine")
        self._addresses[lease.name] = access.path
        return access.path

    def shut_down(self, lease: Lease) -> None:
        """A guest of this machine ends with its pipe, and its legs with it."""

    def leave(self, lease: Lease) -> None:
        """Nothing was opened."""

    def secrets(self) -> tuple[str, ...]:
        """Where the guests' sockets are."""
        return tuple(self._addresses.values())


def shut_down_quietly(connection: Connection, lease: Lease) -> None:
    """The end of the allocation does not wait for its guest's manners."""
    with contextlib.suppress(GlasshouseError, OSError):
        connection.shut_down(lease)
