"""Opening a provider by its name, and what has to be true before one that rents is used.

A provider's base URL is its own, or `--glasshouse-allow-simulated` was given. A key in the environment opens nothing here.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import Provider

NAMES = ("mock", "local", "runpod", "vastai")
RENTING = ("runpod", "vastai")


def open_provider(
    name: str, faults: tuple[str, ...] = (), *, allow_simulated: bool = False, max_price_usd_per_hour: float | None = None
) -> Provider:
    """The provider called `name`. Raises `ConfigurationError` for what the user can fix.

    That is an unknown name, faults it does not play, a key that is missing, and, where `allow_simulated` is false, a base
    URL that is not the provider's own.
    """
    if name == "mock":
        from pytest_glasshouse.providers.mock import MockProvider

        return MockProvider(faults)
    if faults:
        raise ConfigurationError(f"faults are played by the mock provider only; provider {name} was chosen")
    if name == "local":
        from pytest_glasshouse.providers.local import LocalProvider

        return LocalProvider()
    if name not in RENTING:
        raise ConfigurationError(f"provider {name!r}: expected one of {', '.join(NAMES)}")
    provider = _renting(name, max_price_usd_per_hour)
    if provider.simulated and not allow_simulated:
        raise ConfigurationError(
            f"provider {name}: its base URL is not the provider's own, so nothing real can be rented there; "
            "unset it, or accept a simulated provider with --glasshouse-allow-simulated"
        )
    return provider


def _renting(name: str, max_price_usd_per_hour: float | None) -> Provider:
    if name == "runpod":
        from pytest_glasshouse.providers.runpod_models import open_runpod

        return open_runpod(os.environ, max_price_usd_per_hour=max_price_usd_per_hour)
    from pytest_glasshouse.providers.vastai import open_vastai

    return open_vastai(os.environ, max_price_usd_per_hour=max_price_usd_per_hour)


def manual(provider: str, instance_id: str | None) -> str:
    """What a person can do about an allocation that may still exist, without this project."""
    if provider == "runpod":
        api = f'curl -X DELETE https://api.runpod.io/v2/pods/{instance_id} -H "Authorization: Bearer $RUNPOD_API_KEY"'
        return f"{api}, or the console at console.runpod.io" if instance_id else "end it in the console at console.runpod.io"
    if provider == "vastai":
        return (
            f"vastai destroy instance {instance_id}, or the console at cloud.vast.ai"
            if instance_id
            else ("end it in the console at cloud.vast.ai")
        )
    return "end its processes on this machine"


def base_url(provider: Provider) -> str:
    """Where it answers; empty for this machine."""
    return str(getattr(provider, "base_url", ""))
