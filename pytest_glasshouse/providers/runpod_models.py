"""What RunPod's states and messages mean. Shared by `runpod_rest` and `runpod_sdk`; sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pytest_glasshouse.providers.base import InstanceState

URL_VARIABLE = "RUNPOD_API_BASE_URL"
#: How long to leave between two reads: RunPod limits by the minute.
POLL_S = 3.0

Cloud = Literal["SECURE", "COMMUNITY"]

#: REST v2 shows observed states.
REST_STATES: dict[str, InstanceState] = {
    "PROVISIONING": "pending",
    "STARTING": "pending",
    "RUNNING": "running",
    "EXITED": "stopped",
    "ERROR": "failed",
    "TERMINATED": "ended",
}
#: GraphQL shows desired states; with RUNNING, a pod runs only if it has a `runtime`.
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
#: What a 403 is about: the key where a word of `_KEY` appears, else a pool where one of `_POOL` does.
_KEY = ("api key", "apikey", "api-key", "key ", "token", "permission", "scope", "read-only", "read only", "unauthorized", "role")
_POOL = (
    "pool", "data center", "datacenter", "data centre", "region", "gpu", "secure cloud", "community cloud", "machine", "country",
)  # fmt: skip


def meaning(message: str) -> Literal["capacity", "funds", "rate", "gone", "other"]:
    """What a message of RunPod's means; it has no codes for these."""
    text = message.lower().replace("runpod", "")
    for word, signs in (("capacity", _CAPACITY), ("funds", _FUNDS), ("rate", _RATE)):
        if any(sign in text for sign in signs):
            return word  # type: ignore[return-value]
    # A key or user that is not found does not mean that a pod is gone.
    about_a_pod = "pod" in text and not any(sign in text for sign in _KEY)
    return "gone" if about_a_pod and any(sign in text for sign in _GONE) else "other"


def only_this_pool(message: str) -> bool:
    """Whether a 403 refuses the place of the pod, and not the key: RunPod uses it for both.

    Its documented example for a key without the right is `access denied`, so a message that names no place is about the key.
    """
    text = f"{message.lower()} "
    return any(sign in text for sign in _POOL) and not any(sign in text for sign in _KEY)
