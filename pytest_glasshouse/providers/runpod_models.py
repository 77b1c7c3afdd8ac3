"""RunPod's pods as instances, and what its states and messages mean, for `runpod_rest` and `runpod_sdk`. Sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pytest_glasshouse.errors import ProviderError
from pytest_glasshouse.providers.base import Instance, InstanceState, SshAccess, checked_id, ssh_access
from pytest_glasshouse.providers.http_api import UnusableError
from pytest_glasshouse.providers.offers import number, price_from
from pytest_glasshouse.providers.requirements import cuda_from
from pytest_glasshouse.wire.canonical import Json

URL_VARIABLE = "RUNPOD_API_BASE_URL"
#: How long to leave between two reads: RunPod limits by the minute.
POLL_S = 3.0
#: The guest's port for SSH.
SSH_PORT = 22

Cloud = Literal["SECURE", "COMMUNITY"]


@dataclass(frozen=True, kw_only=True)
class NetworkVolume:
    """An existing network volume of the account, and where pods mount it."""

    volume_id: str
    path: str


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

_NO_POD = "runpod: the answer names no pod"
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


def rest_instance_from(pod: Json, *, redacted: Callable[[object], str]) -> Instance:
    """A pod of REST v2. Raises `UnusableError` for one without a valid id: such a pod may exist nevertheless."""
    pod_id, fields = _identified(pod, "a pod without an id")
    gpu, raw = fields.get("gpu"), str(fields.get("status"))
    access, unusable = _rest_access(fields)
    return Instance(
        instance_id=pod_id,
        name=str(fields.get("name") or ""),
        state=REST_STATES.get(raw, "unknown"),
        raw_state=redacted(raw),
        access=access,
        gpu_model=redacted(gpu["id"]) if isinstance(gpu, dict) and gpu.get("id") else None,
        price_usd_per_hour=price_from(fields.get("cost")),
        unusable=unusable,
        cuda=cuda_from(fields.get("cudaVersion")),
    )


def rest_figures(gpu: Mapping[str, Json]) -> dict[str, object]:
    """What the catalog of REST v2 says of a GPU type's machines with stock: `cuda`, `gpu_memory_gb`, `data_centers`.

    The newest CUDA version stands for all of them; the create request has the least one, so that no other is given.
    """
    versions = [cuda_from(each.get("version")) for each in _objects(gpu.get("cudaVersions")) if each.get("available") is True]
    centers = _objects(gpu.get("dataCenters"))
    return {
        "cuda": max((version for version in versions if version is not None), default=None),
        "gpu_memory_gb": number(gpu.get("memory")),
        "data_centers": frozenset(str(each.get("id")) for each in centers if each.get("availability") != "NONE"),
    }


def graphql_instance_from(pod: Json, *, redacted: Callable[[object], str], models: Mapping[str, str]) -> Instance:
    """A pod of the GraphQL API; `models` are driver names by display name. Raises `UnusableError` as above."""
    pod_id, fields = _identified(pod, _NO_POD)
    raw, machine = str(fields.get("desiredStatus")), fields.get("machine")
    state = GRAPHQL_STATES.get(raw, "unknown")
    if state == "running" and not fields.get("runtime"):
        state = "pending"
    shown = machine.get("gpuDisplayName") if isinstance(machine, dict) else None
    access, unusable = _graphql_access(fields)
    return Instance(
        instance_id=pod_id,
        name=str(fields.get("name") or ""),
        state=state,
        raw_state=redacted(raw),
        access=access,
        gpu_model=models.get(str(shown), redacted(shown) if shown and models else None),
        price_usd_per_hour=price_from(fields.get("costPerHr")),
        unusable=unusable,
    )


def graphql_id(pod: Json) -> str:
    """The id of a pod. Raises `UnusableError` for another."""
    return _identified(pod, _NO_POD)[0]


def _identified(pod: Json, problem: str) -> tuple[str, Mapping[str, Json]]:
    """A pod's id and its fields. Raises `UnusableError`, with `problem` where it has no id."""
    if not isinstance(pod, dict) or not isinstance(pod.get("id"), str) or not pod["id"]:
        raise UnusableError(problem)
    try:
        return checked_id("runpod", pod["id"]), pod
    except ProviderError as error:
        raise UnusableError(str(error)) from None


def _rest_access(pod: Mapping[str, Json]) -> tuple[SshAccess | None, str]:
    for port in _ports(pod):
        if port.get("private") == SSH_PORT and port.get("type") == "tcp":
            host, public = port.get("ip"), port.get("public")
            if host and public:
                return ssh_access("runpod", host=("runtime.ports.ip", host), port=("runtime.ports.public", public))
    return None, ""


def _graphql_access(pod: Mapping[str, Json]) -> tuple[SshAccess | None, str]:
    for port in _ports(pod):
        if port.get("privatePort") == SSH_PORT and port.get("type") == "tcp" and port.get("isIpPublic"):
            host, public = port.get("ip"), port.get("publicPort")
            if host and public:
                return ssh_access("runpod", host=("runtime.ports.ip", host), port=("runtime.ports.publicPort", public))
    return None, ""


def _ports(pod: Mapping[str, Json]) -> list[dict[str, Json]]:
    runtime = pod.get("runtime")
    ports = runtime.get("ports") if isinstance(runtime, dict) else None
    return _objects(ports)


def _objects(entries: Json) -> list[dict[str, Json]]:
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []
