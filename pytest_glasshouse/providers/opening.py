"""Opening a provider by its name, and what has to be true before one that rents is used.

A provider's base URL is its own, or `--glasshouse-allow-simulated` was given. A key in the environment opens nothing here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_glasshouse.errors import ConfigurationError

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import Provider

NAMES = ("mock", "local", "runpod", "vastai")
RENTING = ("runpod", "vastai")


def open_provider(name: str, faults: tuple[str, ...] = (), *, allow_simulated: bool = False) -> Provider:
    """The provider called `name`. Raises `ConfigurationError` for an unknown one, for faults it does not play, without a
    key, and for a base URL that is not the provider's own where `allow_simulated` is false.
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
    provider = _renting(name)
    if is_simulated(provider) and not allow_simulated:
        raise ConfigurationError(
            f"provider {name}: its base URL is not the provider's own, so nothing real can be rented there; "
            "unset it, or accept a simulated provider with --glasshouse-allow-simulated"
        )
    return provider


def _renting(name: str) -> Provider:
    raise ConfigurationError(f"provider {name} is not in this version")


def is_simulated(provider: Provider) -> bool:
    """Whether it speaks to another base URL than the provider's own."""
    return bool(getattr(provider, "simulated", False))


def poll_s(provider: Provider) -> float:
    """How often one endpoint of it may be asked, in seconds."""
    return float(getattr(provider, "poll_s", 5.0))


def base_url(provider: Provider) -> str:
    """Where it answers; empty for this machine."""
    return str(getattr(provider, "base_url", ""))
