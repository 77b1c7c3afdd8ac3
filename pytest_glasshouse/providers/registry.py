"""Opening a provider by its name, from the environment.

One that rents is opened only where its base URL is the provider's own or `--glasshouse-allow-simulated` was given. A key in the
environment alone opens nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.place_settings import OwnMachines, PlaceSettings
from pytest_glasshouse.providers.places import NAMES, PLACES, REMOTE, RENTING, manual_stop

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_glasshouse.providers.base import Provider
    from pytest_glasshouse.providers.runpod_models import NetworkVolume

__all__ = [
    "NAMES", "PLACES", "REMOTE", "RENTING", "OwnMachines", "PlaceSettings", "manual_stop", "open_provider", "open_runpod",
]  # fmt: skip

API_VARIABLE = "GLASSHOUSE_RUNPOD_API"
CLOUD_VARIABLE = "GLASSHOUSE_RUNPOD_CLOUD"
VOLUME_VARIABLE = "GLASSHOUSE_RUNPOD_VOLUME"
DEFAULT_API = "rest"
_VOLUME = re.compile(r"(?P<id>[A-Za-z0-9_-]{1,64}):(?P<path>(/[A-Za-z0-9._-]+)+)")


def open_provider(
    name: str,
    faults: tuple[str, ...] = (),
    *,
    allow_simulated: bool = False,
    max_price_usd_per_hour: float | None = None,
    machines: OwnMachines | None = None,
) -> Provider:
    """The provider called `name`. Raises `ConfigurationError` for what the user can fix.

    That is an unknown name, faults it does not play, a key that is missing, and, where `allow_simulated` is false, a base
    URL that is not the provider's own.
    """
    if name not in PLACES:
        raise ConfigurationError(f"provider {name!r}: expected one of {', '.join(NAMES)}")
    if faults and name != "mock":
        raise ConfigurationError(f"faults are played by the mock provider only; provider {name} was chosen")
    settings = PlaceSettings(
        faults=faults,
        allow_simulated=allow_simulated,
        max_price_usd_per_hour=max_price_usd_per_hour,
        machines=machines or OwnMachines(),
    )
    provider = PLACES[name].open(settings)
    if provider.rents and provider.simulated and not allow_simulated:
        raise ConfigurationError(
            f"provider {name}: its base URL is not the provider's own, so nothing real can be rented there; "
            "unset it, or accept a simulated provider with --glasshouse-allow-simulated"
        )
    return provider


def open_runpod_place(settings: PlaceSettings) -> Provider:
    """See `places.Place`."""
    return open_runpod(settings.environ, max_price_usd_per_hour=settings.max_price_usd_per_hour)


def open_runpod(environ: Mapping[str, str], *, max_price_usd_per_hour: float | None = None) -> Provider:
    """RunPod, by the API that `GLASSHOUSE_RUNPOD_API` names. Raises `ConfigurationError`; rents nothing.

    `rest` (API v2, the default) needs no package and shows observed states, prices and logs. `sdk` is the published package,
    which speaks GraphQL only; RunPod retires that early in 2027.
    """
    from pytest_glasshouse.providers.credentials import RUNPOD_URL, api_url, runpod_key
    from pytest_glasshouse.providers.runpod_models import URL_VARIABLE

    api = environ.get(API_VARIABLE, "").strip().lower() or DEFAULT_API
    if api not in {"rest", "sdk"}:
        raise ConfigurationError(f"{API_VARIABLE}: expected rest or sdk, saw {api!r}")
    cloud: Literal["SECURE", "COMMUNITY"]
    match environ.get(CLOUD_VARIABLE, "").strip().lower():
        case "" | "secure":
            cloud = "SECURE"
        case "community":
            cloud = "COMMUNITY"
        case other:
            raise ConfigurationError(f"{CLOUD_VARIABLE}: expected secure or community, saw {other!r}")
    url = api_url(environ, URL_VARIABLE, RUNPOD_URL)
    key = runpod_key(environ)
    volume = _volume(environ.get(VOLUME_VARIABLE, "").strip(), api)
    if api == "rest":
        from pytest_glasshouse.providers.runpod_rest import RunPodRestProvider

        return RunPodRestProvider(
            key=key, base_url=url, cloud=cloud, volume=volume, max_price_usd_per_hour=max_price_usd_per_hour, environ=environ
        )
    from pytest_glasshouse.providers.runpod_sdk import RunPodSdkProvider

    return RunPodSdkProvider(key=key, base_url=url, cloud=cloud, max_price_usd_per_hour=max_price_usd_per_hour, environ=environ)


def _volume(text: str, api: str) -> NetworkVolume | None:
    if not text:
        return None
    found = _VOLUME.fullmatch(text)
    if found is None or ".." in found["path"].split("/"):
        raise ConfigurationError(f"{VOLUME_VARIABLE}: expected the id of a network volume and where it is mounted, ID:/PATH")
    if api != "rest":
        raise ConfigurationError(f"{VOLUME_VARIABLE}: a volume is mounted by API v2 only; unset {API_VARIABLE}")
    from pytest_glasshouse.providers.runpod_models import NetworkVolume

    return NetworkVolume(volume_id=found["id"], path=found["path"])
