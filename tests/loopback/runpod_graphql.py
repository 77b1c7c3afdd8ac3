"""RunPod's GraphQL API as its published SDK speaks it. Unknown fields, inputs and types of values are errors."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from tests.loopback.cloud import Cloud, Order, RefusedError, Rented
from tests.loopback.faults import Fault, Operation
from tests.loopback.graphql import Enum, GraphQLError, Selected, parse
from tests.loopback.hosts import MEMORY_GB
from tests.loopback.http import Answer, Request, as_json

CAPACITY = "There are no longer any instances available with the requested specifications. Please refresh and try again."
DISPLAY_NAMES = {
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000",
    "NVIDIA RTX A4000": "RTX A4000",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA RTX A5000": "RTX A5000",
}
_STATUS = {"provisioning": "RUNNING", "running": "RUNNING", "exited": "EXITED", "error": "DEAD", "unheard-of": "HIBERNATING"}
_REFUSED = {
    "no-capacity": CAPACITY,
    "no-funds": "Your balance is insufficient to deploy this pod. Please add funds.",
    "bad-request": 'Variable "$input" got invalid value; Field "imageName" must be a valid docker image reference.',
    "late": "Something went wrong. Please try again later or contact support.",
    "internal": "Something went wrong. Please try again later or contact support.",
}

_POD = frozenset(
    [
        "id",
        "containerDiskInGb",
        "costPerHr",
        "desiredStatus",
        "dockerArgs",
        "dockerId",
        "env",
        "gpuCount",
        "imageName",
        "lastStatusChange",
        "machineId",
        "memoryInGb",
        "name",
        "podType",
        "port",
        "ports",
        "uptimeSeconds",
        "vcpuCount",
        "volumeInGb",
        "volumeMountPath",
        "runtime",
        "machine",
    ]
)
_TYPES: dict[str, frozenset[str]] = {
    "Pod": _POD,
    "runtime": frozenset({"ports"}),
    "ports": frozenset(["ip", "isIpPublic", "privatePort", "publicPort", "type"]),
    "machine": frozenset({"podHostId", "gpuDisplayName"}),
    "gpuTypes": frozenset(
        [
            "maxGpuCount",
            "id",
            "displayName",
            "manufacturer",
            "memoryInGb",
            "cudaCores",
            "secureCloud",
            "communityCloud",
            "securePrice",
            "communityPrice",
            "oneMonthPrice",
            "threeMonthPrice",
            "oneWeekPrice",
            "communitySpotPrice",
            "secureSpotPrice",
            "lowestPrice",
        ]
    ),
    "lowestPrice": frozenset({"minimumBidPrice", "uninterruptablePrice"}),
    "myself": frozenset(["id", "pubKey", "clientBalance", "currentSpendPerHr", "networkVolumes", "pods"]),
    "networkVolumes": frozenset(["id", "name", "size", "dataCenterId"]),
}
_TYPES["pods"] = _TYPES["pod"] = _TYPES["podFindAndDeployOnDemand"] = _TYPES["podStop"] = _POD
_TYPES["gpuType"] = _TYPES["gpuTypes"]

_TEXT, _NUMBER, _FLAG = (str, type(None)), (int, type(None)), (bool, type(None))
_DEPLOY: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(
        ("name", "imageName", "gpuTypeId", "dataCenterId", "dockerArgs", "countryCode", "ports", "volumeMountPath"), _TEXT
    ),
    **dict.fromkeys(("templateId", "networkVolumeId"), _TEXT),
    **dict.fromkeys(("gpuCount", "volumeInGb", "minVcpuCount", "minMemoryInGb", "containerDiskInGb", "minDownload"), _NUMBER),
    **dict.fromkeys(("startSsh", "supportPublicIp"), _FLAG),
    "cloudType": (Enum,),
    "env": (list,),
    "allowedCudaVersions": (list,),
}
_OPERATIONS: dict[str, Operation] = {
    "gpuTypes": "offers",
    "podFindAndDeployOnDemand": "create",
    "pod": "get",
    "podTerminate": "terminate",
    "podStop": "terminate",
}


class RunPodGraphQL:
    """POST /graphql. Errors are answers with status 200 and `errors`, but for a key that is not accepted."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def operation(self, request: Request) -> Operation | None:
        try:
            _, fields = parse(_document(request))
        except GraphQLError:
            return None
        if fields[0].name == "myself":
            return "list" if any(inner.name == "pods" for inner in fields[0].fields) else "account"
        return _OPERATIONS.get(fields[0].name)

    def answer(self, request: Request, operation: Operation | None, fault: Fault | None) -> Answer:
        del operation
        try:
            kind, fields = parse(_document(request))
            roots = _QUERIES if kind == "query" else _MUTATIONS
            data: dict[str, Any] = {}
            for one in fields:
                _check(one, roots)
                data[one.name] = _pick(roots[one.name](self, one.arguments, request, fault), one)
        except GraphQLError as error:
            return as_json(200, {"errors": [{"message": str(error)}], "data": None})
        if fault and fault.kind == "half":
            data["myself"]["pods"][0] = None
            return as_json(
                200, {"data": data, "errors": [{"message": "a pod could not be shown", "path": ["myself", "pods", 0]}]}
            )
        return as_json(200, {"data": data})

    def refusal(self, status: int, why: str, *, headers: Mapping[str, str]) -> Answer:
        return as_json(status, {"errors": [{"message": why if status != 429 else "Too many requests"}]}, **headers)

    def _gpu_types(self, arguments: dict[str, Any], request: Request, fault: Fault | None) -> Any:
        del request
        asked = _inputs(arguments, {"id": _TEXT}).get("id") if arguments else None
        return [
            {
                "id": model,
                "displayName": DISPLAY_NAMES.get(model, model),
                "memoryInGb": MEMORY_GB.get(model, 24),
                "maxGpuCount": 8,
                "manufacturer": "Nvidia",
                "cudaCores": 0,
                "secureCloud": True,
                "communityCloud": True,
                "securePrice": price,
                "communityPrice": round(price * 0.8, 3),
                "lowestPrice": {
                    "minimumBidPrice": round(price / 2, 3),
                    "uninterruptablePrice": None if fault and fault.kind == "no-capacity" else price,
                },
            }
            for model, price in self._cloud.prices.items()
            if asked in {None, model}
        ]

    def _deploy(self, arguments: dict[str, Any], request: Request, fault: Fault | None) -> Any:
        if request.scope is not None:
            raise GraphQLError("Unauthorized")
        fields = _inputs(arguments, _DEPLOY)
        env = {}
        for pair in fields.get("env") or []:
            if not isinstance(pair, dict) or set(pair) != {"key", "value"} or not all(isinstance(v, str) for v in pair.values()):
                raise GraphQLError('Field "env" must be a list of EnvironmentVariableInput.')
            env[pair["key"]] = pair["value"]
        if not fields.get("imageName"):
            raise GraphQLError('Field "imageName" of required type "String!" was not provided.')
        order = Order(
            name=fields.get("name") or "",
            image=fields["imageName"],
            gpu=fields.get("gpuTypeId") or "",
            command=shlex.split(fields.get("dockerArgs") or ""),
            env=env,
            ports=(fields.get("ports") or "").split(","),
            disk_gb=fields.get("containerDiskInGb") or 10,
            gpus=int(fields.get("gpuCount") or 1),
            fits=lambda host: (
                (not fields.get("allowedCudaVersions") or host.cuda in fields["allowedCudaVersions"])
                and host.memory_gb >= (fields.get("minMemoryInGb") or 0)
            ),
        )
        try:
            return _pod(self._cloud.create(order, fault))
        except RefusedError as error:
            if error.why == "null":
                return None
            raise GraphQLError(_REFUSED[error.why]) from None

    def _get(self, arguments: dict[str, Any], request: Request, fault: Fault | None) -> Any:
        del fault
        found = self._cloud.get(_own(_inputs(arguments, {"podId": _TEXT})["podId"], request))
        return None if found is None else _pod(found)

    def _terminate(self, arguments: dict[str, Any], request: Request, fault: Fault | None) -> Any:
        try:
            found = self._cloud.terminate(_own(_inputs(arguments, {"podId": _TEXT})["podId"], request), fault)
        except RefusedError as error:
            raise GraphQLError(_REFUSED[error.why]) from None
        if not found:
            raise GraphQLError("Pod not found")

    def _stop(self, arguments: dict[str, Any], request: Request, fault: Fault | None) -> Any:
        del fault
        pod_id = _own(_inputs(arguments, {"podId": _TEXT})["podId"], request)
        found = self._cloud.get(pod_id)
        if found is None:
            raise GraphQLError("Pod not found")
        self._cloud.kill(pod_id)
        return _pod(found)

    def _myself(self, arguments: dict[str, Any], request: Request, fault: Fault | None) -> Any:
        del arguments, fault
        if request.scope is not None:
            raise GraphQLError("Unauthorized")
        return {
            "id": "user",
            "pubKey": "",
            "networkVolumes": [],
            "clientBalance": self._cloud.balance_usd,
            "currentSpendPerHr": sum(one.price_usd_per_hour for one in self._cloud.billing()),
            "pods": [_pod(one) for one in self._cloud.list()],
        }


_Root = Callable[[RunPodGraphQL, dict[str, Any], Request, Fault | None], Any]
_QUERIES: dict[str, _Root] = {
    "gpuTypes": RunPodGraphQL._gpu_types,
    "pod": RunPodGraphQL._get,
    "myself": RunPodGraphQL._myself,
}
_MUTATIONS: dict[str, _Root] = {
    "podFindAndDeployOnDemand": RunPodGraphQL._deploy,
    "podTerminate": RunPodGraphQL._terminate,
    "podStop": RunPodGraphQL._stop,
}


def _document(request: Request) -> str:
    body = request.json()
    if not isinstance(body, dict) or not isinstance(body.get("query"), str):
        raise GraphQLError("Must provide query string.")
    return str(body["query"])


def _own(pod_id: str, request: Request) -> str:
    if request.scope not in {None, pod_id}:
        raise GraphQLError("Unauthorized")
    return pod_id


def _inputs(arguments: dict[str, Any], known: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    if set(arguments) != {"input"} or not isinstance(arguments["input"], dict):
        raise GraphQLError('Field argument "input" is required.')
    fields: dict[str, Any] = arguments["input"]
    for name, value in fields.items():
        if name not in known:
            raise GraphQLError(f'Field "{name}" is not defined by type "Input".')
        if not isinstance(value, known[name]):
            raise GraphQLError(f'Field "{name}" got invalid value.')
    return fields


def _check(one: Selected, roots: Mapping[str, _Root] | None = None) -> None:
    if roots is not None and one.name not in roots:
        raise GraphQLError(f'Cannot query field "{one.name}".')
    known = _TYPES.get(one.name)
    if known is None and one.fields:
        raise GraphQLError(f'Field "{one.name}" must not have a selection.')
    if known is not None and not one.fields and one.name != "ports":
        raise GraphQLError(f'Field "{one.name}" must have a selection of subfields.')
    for inner in one.fields:
        if known is not None and inner.name not in known:
            raise GraphQLError(f'Cannot query field "{inner.name}" on type "{one.name}".')
        if inner.name != "ports" or inner.fields:
            _check(inner)


def _pick(value: Any, one: Selected) -> Any:
    if value is None or not one.fields:
        return value
    if isinstance(value, list):
        return [_pick(entry, one) for entry in value]
    return {inner.name: _pick(value.get(inner.name), inner) for inner in one.fields}


def _pod(one: Rented) -> dict[str, Any]:
    ports = []
    if one.port is not None:
        ports.append({"ip": one.shown_host, "isIpPublic": True, "privatePort": 22, "publicPort": one.public, "type": "tcp"})
    return {
        "id": one.instance_id,
        "name": one.order.name,
        "imageName": one.order.image,
        "env": [f"{name}={value}" for name, value in one.order.env.items()],
        "machineId": "machine-1",
        "machine": {"podHostId": f"{one.instance_id}-64410000", "gpuDisplayName": DISPLAY_NAMES.get(one.gpu, one.gpu)},
        "desiredStatus": _STATUS[one.state],
        "containerDiskInGb": one.order.disk_gb,
        "costPerHr": one.price_usd_per_hour,
        "dockerArgs": "",
        "gpuCount": one.order.gpus,
        "podType": "RESERVED",
        "ports": ",".join(one.order.ports),
        "uptimeSeconds": 0,
        "vcpuCount": 8,
        "memoryInGb": 62,
        "volumeInGb": 0,
        "volumeMountPath": "/runpod-volume",
        "runtime": {"ports": ports} if one.state == "running" else None,
    }
