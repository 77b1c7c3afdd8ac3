"""RunPod: which of its two APIs is spoken, and what both have in common. The provider itself is in `runpod_rest` or `runpod_sdk`.

`rest` (API v2, the default) needs no package, tells observed states, prices and logs. `sdk` is the published package, which
speaks GraphQL only; RunPod retires that early in 2027.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.providers.credentials import RUNPOD_URL, base_url, runpod_key

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import InstanceState, Provider

API_VARIABLE = "GLASSHOUSE_RUNPOD_API"
CLOUD_VARIABLE = "GLASSHOUSE_RUNPOD_CLOUD"
URL_VARIABLE = "RUNPOD_API_BASE_URL"
DEFAULT_API = "rest"
#: How long to leave between two reads: RunPod limits by the minute.
POLL_S = 3.0

Cloud = Literal["SECURE", "COMMUNITY"]

#: REST v2 tells what was observed.
REST_STATES: dict[str, InstanceState] = {
    "PROVISIONING": "pending",
    "STARTING": "pending",
    "RUNNING": "running",
    "EXITED": "stopped",
    "ERROR": "failed",
    "TERMINATED": "ended",
}
#: GraphQL tells what is desired; with RUNNING, only a `runtime` says that there is anything.
GRAPHQL_STATES: dict[str, InstanceState] = {
    "CREATED": "pending",
    "RESTARTING": "pending",
    "RUNNING": "running",
    "PAUSED": "stopped",
    "EXITED": "stopped",
    "DEAD": "failed",
    "TERMINATED": "ended",
}

_CAPACITY = ("no longer any instances available", "no instances", "not enough free", "does not have the resources", "no capacity")
_FUNDS = ("balance", "insufficient funds", "add funds", "spend limit", "spending limit")
_RATE = ("rate limit", "too many requests")
_GONE = ("not found", "does not exist")
#: What a 403 is about: a place where this account may not rent, or, wherever the key is named, the key.
_KEY = ("api key", "apikey", "api-key", "key ", "token", "permission", "scope", "read-only", "read only", "unauthorized", "role")
_POOL = (
    "pool", "data center", "datacenter", "data centre", "region", "gpu", "secure cloud", "community cloud", "machine", "country",
)  # fmt: skip


def open_runpod(environ: Mapping[str, str], *, max_price_usd_per_hour: float | None = None) -> Provider:
    """RunPod by the API that `GLASSHOUSE_RUNPOD_API` names. Raises `ConfigurationError`; rents nothing."""
    api = environ.get(API_VARIABLE, "").strip().lower() or DEFAULT_API
    if api not in {"rest", "sdk"}:
        raise ConfigurationError(f"{API_VARIABLE}: expected rest or sdk, saw {api!r}")
    cloud: Cloud
    match environ.get(CLOUD_VARIABLE, "").strip().lower():
        case "" | "secure":
            cloud = "SECURE"
        case "community":
            cloud = "COMMUNITY"
        case other:
            raise ConfigurationError(f"{CLOUD_VARIABLE}: expected secure or community, saw {other!r}")
    url = base_url(environ, URL_VARIABLE, RUNPOD_URL)
    key = runpod_key(environ)
    if api == "rest":
        from pytest_glasshouse.providers.runpod_rest import RunPodRestProvider

        return RunPodRestProvider(
            key=key, base_url=url, cloud=cloud, max_price_usd_per_hour=max_price_usd_per_hour, environ=environ
        )
    from pytest_glasshouse.providers.runpod_sdk import RunPodSdkProvider

    return RunPodSdkProvider(key=key, base_url=url, cloud=cloud, max_price_usd_per_hour=max_price_usd_per_hour, environ=environ)


def meaning(message: str) -> Literal["capacity", "funds", "rate", "gone", "other"]:
    """What one of RunPod's sentences says; it has no codes for these."""
    text = message.lower().replace("runpod", "")
    for word, signs in (("capacity", _CAPACITY), ("funds", _FUNDS), ("rate", _RATE)):
        if any(sign in text for sign in signs):
            return word  # type: ignore[return-value]
    # A key or a user that is not found is no pod that is gone.
    about_a_pod = "pod" in text and not any(sign in text for sign in _KEY)
    return "gone" if about_a_pod and any(sign in text for sign in _GONE) else "other"


def only_this_pool(message: str) -> bool:
    """Whether a 403 is about where the pod was to be, and not about what the key may do: RunPod gives it both meanings.

    Its published example for a key without the right is `access denied`; so whatever names no place is about the key.
    """
    text = f"{message.lower()} "
    return any(sign in text for sign in _POOL) and not any(sign in text for sign in _KEY)
