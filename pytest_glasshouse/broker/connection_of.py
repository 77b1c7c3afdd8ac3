"""The connection for each provider's guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.broker.connection import Connection, LocalConnection
from pytest_glasshouse.broker.pricing import DISK_GB
from pytest_glasshouse.providers.base import Routed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.providers.base import Provider


def connection_of(
    provider: Provider,
    *,
    image: str | None = None,
    boot_timeout_s: float | None = None,
    queue_timeout_s: float | None = None,
    disk_gb: int = DISK_GB,
    emit: Callable[[str, str], None] = lambda _name, _what: None,
) -> Connection:
    """The connection to the guests of `provider`; `emit` gets each step of a boot.

    Raises `ConfigurationError` for an image that is missing or not pinned, and where `ssh` does not work on this machine.
    """
    if provider.this_machine:
        return LocalConnection()
    if isinstance(provider, Routed):
        from pytest_glasshouse.broker.tunnel_connection import RoutedConnection

        return RoutedConnection(provider, boot_timeout_s=boot_timeout_s, queue_timeout_s=queue_timeout_s, emit=emit)
    from pytest_glasshouse.broker.rented_connection import RentedConnection
    from pytest_glasshouse.channel.ssh import preflight

    connection = RentedConnection(image=image, boot_timeout_s=boot_timeout_s, disk_gb=disk_gb, emit=emit)
    connection.image_for(provider)
    preflight()
    return connection
