"""Vast.ai's API as its published client speaks it: offers, asks, instances, a paged listing. Strict about bodies.

The real one ignores body fields it does not know; this one refuses them, so that an unintended field is detected.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.loopback.cloud import Cloud, Order, RefusedError, Rented
from tests.loopback.faults import Fault, Operation
from tests.loopback.hosts import MEMORY_GB, Host
from tests.loopback.http import Answer, Request, as_json
from tests.loopback.paging import page_of

GPU_NAMES = {
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000 S",
    "NVIDIA RTX A4000": "RTX A4000",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA RTX A5000": "RTX A5000",
}
_ASK_FIELDS = frozenset(
    [
        "client_id",
        "image",
        "env",
        "price",
        "disk",
        "label",
        "extra",
        "onstart",
        "image_login",
        "python_utf8",
        "lang_utf8",
        "use_jupyter_lab",
        "jupyter_dir",
        "force",
        "cancel_unavail",
        "template_hash_id",
        "user",
        "runtype",
        "args",
    ]
)
_FILTERS = frozenset(
    [
        "verified",
        "external",
        "rentable",
        "rented",
        "gpu_name",
        "num_gpus",
        "direct_port_count",
        "reliability",
        "inet_down",
        "cuda_max_good",
        "dph_total",
        "disk_space",
        "gpu_ram",
        "cpu_ram",
        "datacenter",
        "order",
        "type",
        "limit",
        "allocated_storage",
    ]
)
_OPERATORS = frozenset(["eq", "neq", "gt", "gte", "lt", "lte", "in", "notin"])
_STATUS: dict[str, str | None] = {
    "provisioning": "loading",
    "running": "running",
    "exited": "exited",
    "error": None,
    "unheard-of": "hibernating",
}
#: As the API's description says of `env`: characters of one item, and of all of them. `onstart` has a limit of its own.
ENV_ITEM, ENV_WHOLE, ONSTART = 256, 32_768, 4048
_PUBLISHED_PORT = re.compile(r"-p (\d+):(\d+)(?:/tcp)?")
PAGE = 25


class Vast:
    """/api/v0 and the one listing of /api/v1."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud

    def operation(self, request: Request) -> Operation | None:
        match request.method, request.path.strip("/").split("/")[1:]:
            case "POST", ["v0", "bundles"]:
                return "offers"
            case "PUT", ["v0", "asks", _]:
                return "create"
            case "GET", ["v0", "instances", _]:
                return "get"
            case "GET", ["v1", "instances"]:
                return "list"
            case "DELETE", ["v0", "instances", _]:
                return "terminate"
            case ("PUT", ["v0", "instances", "request_logs", _]) | ("GET", ["v0", "loopback-logs", _]):
                return "logs"
            case "GET", ["v0", "users", "current"]:
                return "account"
        return None

    def answer(self, request: Request, operation: Operation | None, fault: Fault | None) -> Answer:
        named = request.path.strip("/").split("/")[-1]
        if request.scope is not None and (named != request.scope or operation not in {"get", "terminate"}):
            return self.refusal(403, "this api key is not permitted to do that", headers={})
        match operation:
            case "offers":
                return self._offers(request, fault)
            case "create":
                return self._create(request, named, fault)
            case "get":
                found = self._cloud.get(named)
                return as_json(200, {"instances": None if found is None else instance(found)})
            case "list":
                return self._list(request, fault)
            case "terminate":
                return self._terminate(request, named, fault)
            case "logs":
                return self._logs(request, named)
            case "account":
                return as_json(200, {"id": 1, "credit": self._cloud.balance_usd, "balance": 0.0, "api_key_id": 1})
        return self.refusal(404, "no such endpoint", headers={})

    def refusal(self, status: int, why: str, *, headers: Mapping[str, str]) -> Answer:
        if status == 429:
            return Answer(status=429, body=b"API requests too frequent", content_type="text/plain", headers=headers)
        error = {401: "auth_error", 403: "forbidden", 404: "no_such_instance"}.get(status, "internal_error")
        return as_json(status, {"success": False, "error": error, "msg": why}, **headers)

    def _offers(self, request: Request, fault: Fault | None) -> Answer:
        query = request.json()
        if not isinstance(query, dict):
            return as_json(400, {"success": False, "error": "invalid_args", "msg": "not a query"})
        for name, value in query.items():
            plain = name in {"order", "type", "limit", "allocated_storage"}
            if name not in _FILTERS or (not plain and not (isinstance(value, dict) and set(value) <= _OPERATORS)):
                return as_json(400, {"success": False, "error": "invalid_args", "msg": f"unknown filter {name}"})
        wanted = query.get("gpu_name", {})
        names = wanted.get("in") or [wanted.get("eq")]
        offers: list[dict[str, Any]] = [] if fault and fault.kind == "no-capacity" else [
            {
                "id": ask, "ask_contract_id": ask, "gpu_name": GPU_NAMES[model], "num_gpus": 1,
                "dph_total": self._cloud.prices[model], "reliability2": 0.995, "direct_port_count": 100, "rentable": True,
                "verification": "verified", "inet_down": 900.0, "geolocation": None, "public_ipaddr": "198.51.100.7",
                "machine_id": ask, **_figures(model, host),
            }
            for ask, (model, host) in self._asks().items()
            if names == [None] or GPU_NAMES[model] in names
        ]  # fmt: skip
        offers = [offer for offer in offers if all(offer[name] >= least for name, least in _least(query).items())]
        return as_json(200, {"offers": sorted(offers, key=lambda offer: offer["dph_total"])[: query.get("limit", len(offers))]})

    def _asks(self) -> dict[int, tuple[str, Host]]:
        """What is on offer, by the number of the offer."""
        pairs = [(model, host) for model in self._cloud.prices for host in self._cloud.hosts_of(model)]
        return dict(enumerate(pairs, 1000))

    def _create(self, request: Request, named: str, fault: Fault | None) -> Answer:
        body = request.json()
        if not isinstance(body, dict) or not set(body) <= _ASK_FIELDS or not isinstance(body.get("env", {}), dict):
            return as_json(400, {"success": False, "error": "invalid_args", "msg": "unknown or malformed fields"})
        if not isinstance(body.get("image"), str) or not all(isinstance(v, str) for v in body.get("env", {}).values()):
            return as_json(400, {"success": False, "error": "invalid_args", "msg": "image and env"})
        items = [f"{name}={value}" for name, value in body.get("env", {}).items()]
        if max(map(len, items), default=0) > ENV_ITEM or sum(map(len, items)) > ENV_WHOLE:
            return as_json(400, {"success": False, "error": "invalid_args", "msg": "env is too long"})
        if len(body.get("onstart") or "") > ONSTART:
            return as_json(400, {"success": False, "error": "invalid_args", "msg": "onstart is too long"})
        model, chosen = self._asks().get(int(named) if named.isdigit() else 0, ("", Host()))
        if not model:
            return as_json(
                404, {"success": False, "error": "no_such_ask", "msg": f"Instance type by id {named} is not available."}
            )
        ports, env = [], {}
        for name, value in body["env"].items():
            published = _PUBLISHED_PORT.fullmatch(name)
            if published:
                ports.append(f"{published[2]}/tcp")
            else:
                env[name] = value
        command = [body["onstart"], *(body.get("args") or [])] if body.get("runtype") == "args" and body.get("onstart") else []
        order = Order(
            name=body.get("label") or "", image=body["image"], gpu=model, command=command, env=env, ports=ports,
            disk_gb=int(body.get("disk") or 8), fits=lambda host: host == chosen,
        )  # fmt: skip
        try:
            made = self._cloud.create(order, fault)
        except RefusedError as error:
            return self._refused(error, named)
        return as_json(200, {"success": True, "new_contract": int(made.instance_id), "instance_api_key": made.pod_key})

    def _refused(self, error: RefusedError, named: str) -> Answer:
        match error.why:
            case "null":
                return as_json(200, {"success": True, "new_contract": None})
            case "contract":
                answer = {"success": False, "error": "bid_too_low", "msg": "created in a stopped state"}
                return as_json(400, {**answer, "new_contract": int(str(error.instance_id))})
            case "no-capacity":
                return as_json(
                    400, {"success": False, "error": "no_such_ask", "msg": f"Instance type by id {named} is not available."}
                )
            case "no-funds":
                return as_json(400, {"success": False, "error": "insufficient_credit", "msg": "Your credit is too low for this."})
            case "bad-request":
                return as_json(400, {"success": False, "error": "invalid_args", "msg": "image"})
        return as_json(500, {"success": False, "error": "internal_error", "msg": "try again"})

    def _list(self, request: Request, fault: Fault | None) -> Answer:
        shown = self._cloud.list()
        if self._cloud.paging is not None:
            return page_of(self._cloud.paging, [instance(one) for one in shown], request, entries="instances")
        token = request.query.get("after_token", [None])[0]
        limit = min(int(request.query.get("limit", [str(PAGE)])[0]), PAGE)
        if fault and fault.kind == "second-page":
            limit = 1
        place = int(token.removeprefix("after-")) if token else 0
        page = shown[place : place + limit]
        if fault and fault.kind == "short-list":
            page = page[:-1]
        following = f"after-{place + limit}" if place + limit < len(shown) else None
        return as_json(
            200, {"instances": [instance(one) for one in page], "next_token": following, "total_instances": len(shown)}
        )

    def _terminate(self, request: Request, named: str, fault: Fault | None) -> Answer:
        if request.body and request.json() != {}:
            return as_json(400, {"success": False, "error": "invalid_args", "msg": "body"})
        try:
            found = self._cloud.terminate(named, fault)
        except RefusedError:
            return as_json(500, {"success": False, "error": "internal_error", "msg": "try again"})
        return as_json(200, {"success": True}) if found else self.refusal(404, f"instance {named} not found", headers={})

    def _logs(self, request: Request, named: str) -> Answer:
        found = self._cloud.get(named)
        if found is None:
            return self.refusal(404, "no such instance", headers={})
        if request.method == "PUT":
            return as_json(200, {"success": True, "result_url": f"/api/v0/loopback-logs/{named}"})
        return Answer(status=200, body=(found.pod.logs() if found.pod else "").encode(), content_type="text/plain")


def _figures(model: str, host: Host) -> dict[str, float]:
    """What an offer says of its machine: the CUDA version as a number, memory in MB and disk in GB."""
    gpu_mb = MEMORY_GB.get(model, 24) * 1024.0
    return {"cuda_max_good": float(host.cuda), "gpu_ram": gpu_mb, "cpu_ram": host.memory_gb * 1000, "disk_space": host.disk_gb}


def _least(query: Mapping[str, Any]) -> dict[str, float]:
    """The figures of machines that a query has a lower limit for."""
    limits = {name: query.get(name, {}) for name in ("cuda_max_good", "gpu_ram", "cpu_ram", "disk_space")}
    return {name: limit["gte"] for name, limit in limits.items() if "gte" in limit}


def _spelled(port: Any) -> Any:
    """Docker writes ports as text."""
    return str(port) if type(port) is int else port


def instance(one: Rented) -> dict[str, Any]:
    """An instance as a row of theirs: many fields are null while it starts."""
    running = one.state == "running"
    failed = one.state == "error"
    return {
        "id": int(one.instance_id),
        "label": one.order.name or None,
        "actual_status": _STATUS[one.state],
        "intended_status": "running",
        "cur_state": "running",
        "next_state": "running",
        "status_msg": "Error response from daemon: OCI runtime create failed" if failed else None,
        "gpu_name": GPU_NAMES[one.gpu] if one.gpu else None,
        "num_gpus": 1,
        "dph_total": one.price_usd_per_hour,
        "image_uuid": one.order.image,
        "public_ipaddr": (f"{one.shown_host} " if isinstance(one.shown_host, str) else one.shown_host) if running else None,
        "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": _spelled(one.public)}]} if one.port is not None else None,  # noqa: S104
        "ssh_host": "ssh4.vast.ai",
        "ssh_port": 10022,
        "extra_env": [[name, value] for name, value in one.order.env.items()] or None,
        "start_date": None if not running else 1_780_000_000.0,
        "machine_id": 7,
        "geolocation": None,
        "cuda_max_good": float(one.host.cuda),
    }
