"""Every provider over a server that gives one answer, whatever it is: what each of their questions makes of it."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from pytest_glasshouse.errors import AmbiguousCreateError, GlasshouseError
from pytest_glasshouse.providers.base import Instance, Launch, Offer, Provider
from pytest_glasshouse.providers.registry import open_runpod
from pytest_glasshouse.providers.requirements import CudaVersion, Requirements
from pytest_glasshouse.providers.vastai import VastProvider
from pytest_glasshouse.rows.spec import RowSpec
from pytest_glasshouse.wire.secret import Secret
from tests.fuzz.mutation import STRANGE, Tape, changed_bytes, changed_json
from tests.limits import HANG_S

KEY = "key-of-the-fuzzer"
GPU = "NVIDIA RTX A4000"
NAME = "glasshouse-fuzz-1-1900000000"
ROW = RowSpec(name="fuzz", workload="mlp", gpu="a4000", order="raw-first", target_s=1.0)
REQUIRED = Requirements(cuda=CudaVersion(12, 8), gpu_memory_gb=16, disk_gb=40)
LAUNCH = Launch(name=NAME, image="example/guest:1", start=("true",))
#: A call that takes longer hangs, and one that takes more memory than this beside what there was is not bounded.
MOST_S = HANG_S
MOST_KIB = 400 * 1024

_POD = {
    "id": "pod1", "name": NAME, "status": "RUNNING", "cost": 0.25, "gpu": {"id": GPU, "count": 1},
    "runtime": {"uptime": 1, "ports": [{"private": 22, "public": 2222, "type": "tcp", "ip": "127.0.0.1"}]},
}  # fmt: skip
_SDK_POD = {
    "id": "pod1", "name": NAME, "desiredStatus": "RUNNING", "costPerHr": 0.25, "machine": {"gpuDisplayName": "RTX A4000"},
    "runtime": {"ports": [{"ip": "127.0.0.1", "isIpPublic": True, "privatePort": 22, "publicPort": 2222, "type": "tcp"}]},
}  # fmt: skip
_VAST_ROW = {
    "id": 7, "label": NAME, "actual_status": "running", "intended_status": "running", "status_msg": None, "gpu_name": "RTX A4000",
    "dph_total": 0.25, "public_ipaddr": "127.0.0.1", "ports": {"22/tcp": [{"HostIp": "0.0.0.0", "HostPort": "2222"}]},  # noqa: S104
}  # fmt: skip
_GPU = {
    "id": GPU,
    "displayName": "RTX A4000",
    "securePrice": 0.25,
    "secureCloud": True,
    "lowestPrice": {"uninterruptablePrice": 1},
    "memoryInGb": 16,
}
_PROBLEM = {"title": "x", "status": 403, "detail": f"{KEY} at https://u:p@h/ \x1b[31m::error::x", "errors": ["$.a", f"{KEY}"]}
_REFUSED = {"success": False, "error": "no_such_ask", "msg": f"{KEY} no", "new_contract": None}

#: What each question is answered with where all is well, or is refused with: status and JSON.
ANSWERS: dict[str, dict[str, list[tuple[int, Any]]]] = {
    "rest": {
        "list": [(200, {"pods": [_POD, {**_POD, "id": "pod2"}], "pagination": {"nextCursor": "c", "hasMore": True, "total": 2}})],
        "get": [(200, _POD), (404, _PROBLEM)],
        "create": [(201, _POD), (403, _PROBLEM)],
        "terminate": [(204, None), (404, _PROBLEM)],
        "offers": [(200, {"gpus": [
            {"id": GPU, "price": {"secure": 0.25}, "secure": True, "availability": "HIGH", "memory": 16,
             "cudaVersions": [{"version": "13.0", "available": True}], "dataCenters": [{"id": "A-1", "availability": "LOW"}]},
        ]})],
        "account": [(200, {"pods": []})],
        "logs": [(200, {"line": "x"})],
        "may_create": [(422, _PROBLEM), (403, _PROBLEM)],
    },
    "sdk": {
        "list": [(200, {"data": {"myself": {"pods": [_SDK_POD]}}, "errors": [{"message": KEY, "extensions": {"code": "X"}}]})],
        "get": [(200, {"data": {"pod": _SDK_POD}})],
        "create": [(200, {"data": {"podFindAndDeployOnDemand": {"id": "pod1"}}}), (200, {"errors": [{"message": KEY}]})],
        "terminate": [(200, {"data": {"podTerminate": None}})],
        "offers": [(200, {"data": {"gpuTypes": [_GPU]}})],
        "account": [(200, {"data": {"myself": {"clientBalance": 3.0}}})],
    },
    "vast": {
        "list": [(200, {"instances": [_VAST_ROW, {**_VAST_ROW, "id": 8}], "next_token": None, "total_instances": 2})],
        "get": [(200, {"instances": _VAST_ROW}), (404, _REFUSED)],
        "create": [(200, {"success": True, "new_contract": 7}), (400, _REFUSED), (403, _REFUSED)],
        "terminate": [(200, {"success": True}), (404, _REFUSED)],
        "offers": [(200, {"offers": [{"id": 1, "gpu_name": "RTX A4000", "num_gpus": 1, "dph_total": 0.25,
                                       "cuda_max_good": 13.0, "gpu_ram": 16376, "disk_space": 99.5}]})],
        "account": [(200, {"credit": 3.0})],
        "logs": [(200, {"success": True, "result_url": "/api/v0/logs/7"})],
        "may_create": [(404, _REFUSED)],
    },
}  # fmt: skip
_STATUSES = (100, 101, 199, 200, 201, 202, 204, 206, 299, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 407, 408, 409,
             410, 422, 429, 499, 500, 502, 503, 599, 600, 999)  # fmt: skip
_HEADERS = (
    "Retry-After: \xb2", "Retry-After: -1", "Retry-After: " + "9" * 400, "Retry-After: 1e9", "Date: x", "Date: Fri, 99 Nov 20\xb26",
    "Date: Mon, 01 Jan 0001 00:00:00 -9999", "Link: <?a=1>; rel=next", 'Link: <http://h/>; rel="next"', "Link: <", "Location: /",
    "Content-Encoding: gzip", "Content-Encoding: identity", "Transfer-Encoding: chunked", "Content-Length: -1", "Content-Length: 1, 2",
    "Content-Length: \xb2", "Content-Type: text/event-stream", "Content-Type: text/plain", "X: \x1b[31m", "broken", ": y", "A: b\r\n c",
)  # fmt: skip


class OneAnswer:
    """A listener that answers each connection with the next of `raw`, the last one for ever, and closes it."""

    def __init__(self) -> None:
        self.raw: list[bytes] = [b""]
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(HANG_S)
                _request(connection)
                raw = self.raw.pop(0) if len(self.raw) > 1 else self.raw[0]
                connection.sendall(raw)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass

    def close(self) -> None:
        self._listener.close()


def _request(connection: socket.socket) -> None:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    left = int(lengths[0].partition(b":")[2]) - len(body) if lengths else 0
    while left > 0:
        piece = connection.recv(65536)
        if not piece:
            return
        left -= len(piece)


@cache
def world() -> tuple[OneAnswer, dict[str, Provider]]:
    """The server and the providers over it. Each is asked once, so that nothing is imported later."""
    server = OneAnswer()
    atexit.register(server.close)
    os.environ["RUNPOD_API_BASE_URL"] = server.url
    environ = {"RUNPOD_API_KEY": KEY, "RUNPOD_API_BASE_URL": server.url}
    providers: dict[str, Provider] = {
        "rest": open_runpod(environ, requirements=REQUIRED),
        "sdk": open_runpod({**environ, "GLASSHOUSE_RUNPOD_API": "sdk"}, requirements=REQUIRED),
        "vast": VastProvider(key=Secret(KEY.encode()), base_url=server.url, poll_s=0.0, requirements=REQUIRED, environ={}),
    }
    for kind, questions in ANSWERS.items():
        for question in questions:
            server.raw = [b"HTTP/1.1 500 x\r\nContent-Length: 2\r\n\r\n{}"]
            with contextlib.suppress(GlasshouseError):
                _ask(providers[kind], question)()
    sys.addaudithook(_audit)
    return server, providers


def _ask(provider: Provider, question: str) -> Callable[[], Any]:
    offer = Offer(provider=provider.name, gpu_model=GPU, price_usd_per_hour=0.25, offer_id="1002")
    instance = "7" if provider.name == "vastai" else "pod1"
    return {
        "list": provider.list,
        "get": lambda: provider.get(instance),
        "create": lambda: provider.create(offer, launch=LAUNCH),
        "terminate": lambda: provider.terminate(instance),
        "offers": lambda: provider.offers(ROW),
        "account": provider.account,
        "logs": lambda: provider.logs(instance),
        "may_create": provider.may_create,
    }[question]


def _http(status: int, body: bytes, headers: list[str], *, length: bool) -> bytes:
    head = [f"HTTP/1.1 {status} x", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def drawn(tape: Tape) -> tuple[str, str, list[bytes], int, Any]:
    """A provider, a question, the bytes that answer it, and the status and value these are, as far as they still are."""
    kind = tuple(ANSWERS)[tape.number(len(ANSWERS))]
    question = tuple(ANSWERS[kind])[tape.number(len(ANSWERS[kind]))]
    status, value = (choices := ANSWERS[kind][question])[tape.number(len(choices))]
    if tape.number(4) == 0:
        status = _STATUSES[tape.number(len(_STATUSES))]
    headers = [_HEADERS[tape.number(len(_HEADERS))] for _ in range(tape.number(3))]
    act = tape.number(6)
    known = True
    if act == 0:
        body = json.dumps(STRANGE[tape.number(len(STRANGE))]).encode()
        value = None
    elif act == 1:
        body, known = changed_bytes(json.dumps(value).encode(), tape), False
    elif act == 2:
        depth = 10 ** tape.number(6)
        body = json.dumps(value).encode().replace(b"{", b'{"deep": ' + b"[" * depth + b"]" * depth + b", ", 1)
        known = False
    elif act == 3:
        body = json.dumps(value).encode()
    else:
        value = changed_json(value, tape)
        try:
            body = json.dumps(value).encode()
        except (ValueError, RecursionError):
            body, known = b"{", False
    raw = _http(status, body, headers, length=tape.number(4) != 0)
    if tape.number(4) == 0:
        raw, known = changed_bytes(raw, tape), False
    first = (
        [_http(200, json.dumps({"data": {"gpuTypes": [_GPU]}}).encode(), [], length=True)]
        if (kind, question) == ("sdk", "create")
        else []
    )
    return kind, question, [*first, raw], status, value if known and not headers else ...


def answered(tape: Tape) -> None:
    """Send one request and check its result."""
    server, providers = world()
    kind, question, server.raw, status, value = drawn(tape)
    _WRITTEN.clear()
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    outcome: Any
    _WATCHING.append(threading.get_ident())
    try:
        outcome = _ask(providers[kind], question)()
    except GlasshouseError as error:
        outcome = error
    finally:
        _WATCHING.clear()
    what = f"{kind} {question} {status}"
    if _WRITTEN:
        raise AssertionError(f"{what}: written: {_WRITTEN}")
    if time.monotonic() - began > MOST_S:
        raise AssertionError(f"{what}: took too long")
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MOST_KIB:
        raise AssertionError(f"{what}: took too much memory")
    if isinstance(outcome, GlasshouseError):
        _shown(str(outcome), what)
    elif question in {"list", "get", "create"} and outcome is not None:
        for one in outcome if question == "list" else [outcome]:
            _instance(one, what)
    if question == "create":
        _created(kind, status, value, outcome, what)


def _created(kind: str, status: int, value: Any, outcome: Any, what: str) -> None:
    """What an answer reports as created is never reported as not created."""
    if isinstance(outcome, AmbiguousCreateError | Instance):
        return
    made = {
        "rest": lambda: value is not ... and 200 <= status < 300,
        "sdk": lambda: isinstance(value, dict) and 200 <= status < 300 and "pod1" in json.dumps(value.get("data")),
        "vast": lambda: isinstance(value, dict) and bool(value.get("new_contract")),
    }[kind]()
    if made or (value is not ... and (status >= 500 or status in {303, 408})):
        raise AssertionError(f"{what}: {type(outcome).__name__} for what may have been made")


def _instance(one: Any, what: str) -> None:
    if not isinstance(one, Instance) or not one.instance_id or not isinstance(one.name, str):
        raise AssertionError(f"{what}: no instance")
    _shown(f"{one.raw_state} {one.detail} {one.gpu_model}", what)


def _shown(text: str, what: str) -> None:
    if KEY in text or not text.isprintable() or "::error" in text or len(text) > 2000:
        raise AssertionError(f"{what}: not fit to be shown: {text[:300]!r}")


_WATCHING: list[int] = []
_WRITTEN: list[str] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """No answer of a provider makes this process write a file."""
    if event == "open" and _WATCHING and threading.get_ident() in _WATCHING:
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _WRITTEN.append(str(path))
