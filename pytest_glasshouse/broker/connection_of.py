"""How the guest of each kind of allocation is reached."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.broker.connection import Connection, Nearby

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_glasshouse.providers.base import Provider


def connection_of(
    provider: Provider,
    *,
    image: str | None = None,
    boot_timeout_s: float | None = None,
    tell: Callable[[str, str], None] = lambda _name, _what: None,
) -> Connection:
    """How the guests of `provider` are reached.

    Raises `ConfigurationError` for an image that is missing or not pinned, and where `ssh` would not reach a guest from here.
    """
    if not provider.rents:
        return Nearby()
    from pytest_glasshouse.broker.rented_connection import RentedConnection
    from pytest_glasshouse.channel.ssh import preflight

    connection = RentedConnection(image=image, boot_timeout_s=boot_timeout_s, tell=tell)
    connection.image_for(provider)
    preflight()
    return connection
