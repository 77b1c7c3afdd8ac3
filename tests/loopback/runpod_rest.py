"""RunPod's REST API v2 as published: closed request bodies, problem documents, 404 for what is gone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Any

import jsonschema

from tests.loopback.cloud import Cloud, Order, RefusedError, Rented
from tests.loopback.faults import Fault, Operation
from tests.loopback.hosts import MEMORY_GB, Host
from tests.loopback.http import Answer, Request, as_json
from tests.loopback.paging import page_of
from tests.loopback.runpod_graphql import CAPACITY

_STATUS = {
    "provisioning": "PROVISIONING",
    "running": "RUNNING",
    "exited": "EXITED",
    "error": "ERROR",
    "unheard-of": "HIBERNATING",
}
_ACTIONS = {"RUNNING": ["stop", "restart", "terminate"], "PROVISIONING": ["stop", "terminate"]}
_TITLES = {
    400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests", 500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip
_TEXTS = {"type": "array", "items": {"type": "string"}}
_CUDA = {"type": "string", "pattern": r"^\d+\.\d+$"}
#: The fields of a create request. There are no others.
CREATE = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "image": {"type": "string"},
        "args": {"type": "string"},
        "disk": {"type": "integer", "minimum": 1},
        "env": {"type": "object", "additionalProperties": {"type": "string"}},
        "ports": _TEXTS,
        "registry": {"type": ["string", "null"]},
        "cloud": {"enum": ["SECURE", "COMMUNITY"]},
        "cpu": {"type": "object"},
        "dataCenterIds": _TEXTS,
        "globalNetworking": {"type": "boolean"},
        "gpu": {
            "type": "object",
            "required": ["id"],
            "additionalProperties": False,
            "properties": {
                "id": {"type": "string"},
                "count": {"type": "integer", "minimum": 1},
                "allowedCudaVersions": {"type": "array", "items": _CUDA},
                "minCudaVersion": _CUDA,
            },
        },
        "mounts": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "persistent": {"type": "object"},
                "network": {
                    "type": "array",
                    "maxItems": 1,
                    "items": {
                        "type": "object",
                        "required": ["volumeId", "path"],
                        "additionalProperties": False,
                        "properties": {"volumeId": {"type": "string"}, "path": {"type": "string"}},
                    },
                },
            },
        },
        "startJupyter": {"type": "boolean"},
        "startSsh": {"type": "boolean"},
        "templateId": {"type": "string", "minLength": 1},
    },
    "anyOf": [{"required": ["image"]}, {"required": ["templateId"]}],
}


class RunPodRest:
    """/v2/pods and /v2/catalog/gpus."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def operation(self, request: Request) -> Operation | None:
        match request.method, _parts(request):
            case "POST", ["pods"]:
                return "create"
            case "GET", ["pods"]:
                return "list"
            case "GET", ["pods", _]:
                return "get"
            case ("DELETE", ["pods", _]) | ("POST", ["pods", _, "action"]):
                return "terminate"
            case "GET", ["pods", _, "logs"]:
                return "logs"
            case "GET", ["catalog", "gpus"]:
                return "offers"
            case "GET", ["network-volumes", _]:
                return "volume"
        return None

    def answer(self, request: Request, operation: Operation | None, fault: Fault | None) -> Answer:
        parts = _parts(request)
        named = parts[1] if len(parts) > 1 and parts[0] == "pods" else None
        if request.scope is not None and named != request.scope:
            return self.refusal(403, "access denied", headers={})
        match operation:
            case "create":
                return self._create(request, fault)
            case "list":
                return self._list(request, fault)
            case "get":
                found = self._cloud.get(str(named))
                return self._gone() if found is None else as_json(200, pod(found))
            case "terminate":
                return self._terminate(request, str(named), fault)
            case "logs":
                return self._logs(str(named))
            case "offers":
                return self._offers(request, fault)
            case "volume":
                return self._volume(parts[1])
        return self.refusal(404, "resource not found", headers={})

    def refusal(self, status: int, why: str, *, headers: Mapping[str, str]) -> Answer:
        body = {"title": _TITLES.get(status, "Error"), "status": status, "detail": why}
        return Answer(status=status, body=json.dumps(body).encode(), content_type="application/problem+json", headers=headers)

    def _create(self, request: Request, fault: Fault | None) -> Answer:
        if request.scope is not None:
            return self.refusal(403, "access denied", headers={})
        body = request.json()
        faults = [f"{error.json_path}: {error.message}" for error in jsonschema.Draft202012Validator(CREATE).iter_errors(body)]
        if faults:
            problem = {"title": _TITLES[422], "status": 422, "detail": "Request validation failed.", "errors": faults}
            return Answer(status=422, body=json.dumps(problem).encode(), content_type="application/problem+json")
        if body.get("gpu", {}).get("allowedCudaVersions") and "minCudaVersion" in body["gpu"]:
            return self.refusal(400, "allowedCudaVersions and minCudaVersion are mutually exclusive", headers={})
        if ("gpu" in body) == ("cpu" in body):
            return self.refusal(400, "exactly one of gpu or cpu must be set", headers={})
        order = Order(
            name=body["name"],
            image=body.get("image", ""),
            gpu=body["gpu"]["id"] if "gpu" in body else "",
            command=shlex.split(body.get("args", "")),
            env=body.get("env", {}),
            ports=body.get("ports", []),
            disk_gb=body.get("disk", 20),
            gpus=body.get("gpu", {}).get("count", 1),
            mounts={each["volumeId"]: each["path"] for each in body.get("mounts", {}).get("network", ())},
            fits=_fits(body),
        )
        try:
            return as_json(201, pod(self._cloud.create(order, fault)))
        except RefusedError as error:
            match error.why:
                case "null":
                    return as_json(201, None)
                case "no-capacity":
                    return self.refusal(400, CAPACITY, headers={})
                case "no-funds":
                    return self.refusal(402, "insufficient balance", headers={})
                case "bad-request":
                    problem = {
                        "title": _TITLES[422],
                        "status": 422,
                        "detail": "Request validation failed.",
                        "errors": ["$.image"],
                    }
                    return Answer(status=422, body=json.dumps(problem).encode(), content_type="application/problem+json")
            return self.refusal(500, "internal server error", headers={})

    def _list(self, request: Request, fault: Fault | None) -> Answer:
        pods = [pod(one) for one in self._cloud.list()]
        if self._cloud.paging is not None:
            return page_of(self._cloud.paging, pods, request, entries="pods")
        if fault and fault.kind == "second-page":
            # The published listing has no pages. Should it get some, a reader must not take the first for the whole.
            return as_json(200, {"pods": pods[:-1], "nextCursor": "eyJvZmZzZXQiOjF9"})
        return as_json(200, {"pods": pods})

    def _terminate(self, request: Request, named: str, fault: Fault | None) -> Answer:
        if request.method == "POST":
            body = request.json()
            action = body.get("action") if isinstance(body, dict) and set(body) == {"action"} else None
            if action not in {"start", "stop", "restart", "terminate"}:
                return self.refusal(422, "Request validation failed.", headers={})
            if action != "terminate":
                return self._act(named, action)
        try:
            found = self._cloud.terminate(named, fault)
        except RefusedError:
            return self.refusal(500, "internal server error", headers={})
        return Answer(status=204) if found else self._gone()

    def _act(self, named: str, action: str) -> Answer:
        found = self._cloud.get(named)
        if found is None:
            return self._gone()
        if action == "stop":
            self._cloud.kill(named)
        else:
            self._cloud.restart(named)
        return as_json(200, pod(found))

    def _logs(self, named: str) -> Answer:
        found = self._cloud.get(named)
        if found is None:
            return self._gone()
        lines = found.pod.logs().splitlines()[-100:] if found.pod else []
        events = tuple(
            f"id: 2026-06-01T12:02:03Z/{number:012d}\n"
            f"data: {json.dumps({'ts': '2026-06-01T12:02:03Z', 'source': 'container', 'line': line})}\n\n"
            for number, line in enumerate(lines, 1)
        )
        return Answer(status=200, stream=events)

    def _offers(self, request: Request, fault: Fault | None) -> Answer:
        availability = request.query.get("include") == ["AVAILABILITY"]
        if availability != ("product" in request.query):
            return self.refusal(400, "product is required with include=AVAILABILITY, and valid only with it", headers={})
        gpus = []
        for model, price in self._cloud.prices.items():
            hosts = self._cloud.hosts_of(model)
            gpu: dict[str, Any] = {
                "id": model,
                "name": model.removeprefix("NVIDIA "),
                "pool": None,
                "manufacturer": "NVIDIA",
                "memory": MEMORY_GB.get(model, 24),
                "secure": True,
                "community": True,
                "price": {"secure": price, "community": round(price * 0.8, 3)},
                "maxCount": {"secure": 8, "community": 4},
            }
            if availability:
                gpu["availability"] = "NONE" if not hosts or (fault and fault.kind == "no-capacity") else "HIGH"
                places = sorted({host.data_center for host in hosts})
                gpu["dataCenters"] = [{"id": place, "name": place, "availability": "HIGH"} for place in places]
                gpu["cudaVersions"] = [{"version": v, "available": True} for v in sorted({host.cuda for host in hosts})]
            gpus.append(gpu)
        return as_json(200, {"gpus": gpus})

    def _volume(self, named: str) -> Answer:
        place = self._cloud.place_of(named)
        if place is None:
            return self.refusal(404, "network volume not found", headers={})
        return as_json(200, {"id": named, "name": named, "size": 100, "dataCenter": place, "type": "STANDARD"})

    def _gone(self) -> Answer:
        return self.refusal(404, "pod not found", headers={})


def _fits(body: Mapping[str, Any]) -> Callable[[Host], bool]:
    """Which machines a create request may be placed on."""
    gpu, places = body.get("gpu", {}), body.get("dataCenterIds")
    least = tuple(int(part) for part in gpu.get("minCudaVersion", "0.0").split("."))
    exact = gpu.get("allowedCudaVersions")
    return lambda host: (
        host.cuda_numbers >= least and (not exact or host.cuda in exact) and (not places or host.data_center in places)
    )


def _parts(request: Request) -> list[str]:
    return request.path.removeprefix("/v2/").strip("/").split("/")


def pod(one: Rented) -> dict[str, Any]:
    """An instance with every field that a published answer has."""
    status = _STATUS[one.state]
    running = one.state == "running"
    direct, ports = None, []
    if one.port is not None:
        direct = {"host": "127.0.0.1", "port": one.port, "username": "root", "command": f"ssh root@127.0.0.1 -p {one.port}"}
        ports.append({"private": 22, "public": one.public, "type": "tcp", "ip": one.shown_host})
    relay = f"{one.instance_id}-64410000"
    return {
        "id": one.instance_id,
        "name": one.order.name,
        "status": status,
        "actions": _ACTIONS.get(status, ["start", "terminate"]),
        "image": one.order.image,
        "args": "",
        "disk": one.order.disk_gb,
        "mounts": {},
        "ports": list(one.order.ports),
        "env": dict(one.order.env),
        "registry": None,
        "gpu": {"id": one.gpu, "count": one.order.gpus},
        "cloud": "SECURE",
        "dataCenterId": one.host.data_center,
        "cudaVersion": one.host.cuda,
        "ssh": {
            "proxy": {"host": "ssh.runpod.io", "port": 22, "username": relay, "command": f"ssh {relay}@ssh.runpod.io"},
            "direct": direct,
        },
        "template": None,
        "cost": one.price_usd_per_hour,
        "locked": False,
        "globalNetworking": {"enabled": False},
        "runtime": {"uptime": 1, "ports": ports} if running else None,
        "createdAt": "2026-06-01T12:00:00Z",
        "startedAt": "2026-06-01T12:02:00Z" if running else None,
    }
