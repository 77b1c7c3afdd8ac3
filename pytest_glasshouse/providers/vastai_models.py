"""Vast.ai's GPU names, states, offers and instances as this project's. Pure; sends nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pytest_glasshouse.channel.access import Port
from pytest_glasshouse.providers.base import Instance, InstanceState, Offer, SshAccess, ssh_access
from pytest_glasshouse.providers.http_api import UnusableError
from pytest_glasshouse.providers.offers import number, price_from
from pytest_glasshouse.providers.requirements import ANY_MACHINE, Requirements, cuda_from
from pytest_glasshouse.wire.canonical import Json

#: Vast.ai's name of a GPU, and its driver's.
GPU_NAMES: dict[str, str] = {
    "H100 SXM": "NVIDIA H100 80GB HBM3",
    "RTX PRO 6000 S": "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "RTX A4000": "NVIDIA RTX A4000",
    "RTX 4090": "NVIDIA GeForce RTX 4090",
    "RTX 3090": "NVIDIA GeForce RTX 3090",
}
#: By `actual_status`. `unknown` and `offline` mean a machine that stopped answering: it never comes back by itself.
STATES: dict[str | None, InstanceState] = {
    None: "pending",
    "created": "pending",
    "loading": "pending",
    "rebooting": "pending",
    "running": "running",
    "stopped": "stopped",
    "frozen": "stopped",
    "exited": "stopped",
    "unknown": "lost",
    "offline": "lost",
}
_FAILURES = ("error", "failed", "oci runtime")
#: Storage priced into the offers where no size is required: as large as a launch's disk is by default.
_DISK_GB = 40.0
#: The API counts memory in MB.
_MB = 1000
_OFFERS = 20
_LARGEST_ID = 2**63


def search_for(
    models: Sequence[str], asked: Requirements = ANY_MACHINE, *, disk_gb: int | None = None, gpus: int = 1
) -> dict[str, Json]:
    """The query for so many GPUs of `models`, on machines that are verified, reliable and reachable, and have what is `asked`.

    Prices are for `disk_gb` of storage.
    """
    names: list[Json] = [name for name, model in GPU_NAMES.items() if model in models]
    query: dict[str, Json] = {
        "verified": {"eq": True},
        "external": {"eq": False},
        "rentable": {"eq": True},
        "rented": {"eq": False},
        "gpu_name": {"in": names},
        "num_gpus": {"eq": gpus},
        "direct_port_count": {"gte": 2},
        "reliability": {"gt": 0.98},
        "order": [["dph_total", "asc"]],
        "type": "on-demand",
        "limit": _OFFERS,
        "allocated_storage": _DISK_GB if disk_gb is None else float(disk_gb),
    }
    if asked.cuda is not None:
        query["cuda_max_good"] = {"gte": float(str(asked.cuda))}
    if asked.gpu_memory_gb is not None:
        query["gpu_ram"] = {"gte": asked.gpu_memory_gb * _MB}
    if asked.memory_gb is not None:
        query["cpu_ram"] = {"gte": asked.memory_gb * _MB}
    if asked.disk_gb is not None:
        query["disk_space"] = {"gte": float(asked.disk_gb)}
    return query


def figures_of(offer: Json) -> dict[str, object]:
    """What an offer says of its machine: `cuda`, `gpu_memory_gb`, `memory_gb` and `disk_gb`; None where it does not say it."""
    fields = offer if isinstance(offer, dict) else {}
    sizes = {name: number(fields.get(name)) for name in ("gpu_ram", "cpu_ram", "disk_space")}
    return {
        "cuda": cuda_from(fields.get("cuda_max_good")),
        "gpu_memory_gb": None if sizes["gpu_ram"] is None else sizes["gpu_ram"] / _MB,
        "memory_gb": None if sizes["cpu_ram"] is None else sizes["cpu_ram"] / _MB,
        "disk_gb": sizes["disk_space"],
    }


def offer_from(one: Json, *, gpus: int = 1) -> Offer | None:
    """One offer of so many GPUs; None for one that lacks what an offer needs."""
    if not isinstance(one, dict):
        return None
    model, price, ask = GPU_NAMES.get(str(one.get("gpu_name"))), price_from(one.get("dph_total")), one.get("id")
    if model is None or price is None or one.get("num_gpus") != gpus or (number := id_text(ask)) is None:
        return None
    return Offer(provider="vastai", gpu_model=model, price_usd_per_hour=price, offer_id=number, gpus=gpus)


def instance_from(row: Json, *, redacted: Callable[[object], str]) -> Instance:
    """One instance; every field but its id may be null. Raises `UnusableError`."""
    made = id_text(row.get("id")) if isinstance(row, dict) else None
    if not isinstance(row, dict) or made is None:
        raise UnusableError("vastai: an instance without an id")
    raw, message, gpu = row.get("actual_status"), str(row.get("status_msg") or ""), row.get("gpu_name")
    access, unusable = _access(row)
    return Instance(
        instance_id=made,
        name=str(row.get("label") or ""),
        state=_state(row),
        raw_state=redacted("null" if raw is None else raw),
        access=access,
        gpu_model=None if gpu is None else GPU_NAMES.get(str(gpu), redacted(gpu)),
        price_usd_per_hour=price_from(row.get("dph_total")),
        detail=redacted(message),
        unusable=unusable,
        cuda=cuda_from(row.get("cuda_max_good")),
    )


def id_text(value: Json) -> str | None:
    """An id of Vast.ai's, a whole number above zero, in digits; None for anything else."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and 0 < value < _LARGEST_ID else None


def _state(row: Mapping[str, Json]) -> InstanceState:
    raw = row.get("actual_status")
    state = STATES.get(raw, "unknown") if raw is None or isinstance(raw, str) else "unknown"
    message = str(row.get("status_msg") or "").lower()
    if state == "pending" and any(sign in message for sign in _FAILURES):
        return "failed"
    if state == "running" and row.get("intended_status") not in (None, "running"):
        return "stopped"
    return state


def _access(row: Mapping[str, Json]) -> tuple[SshAccess | None, str]:
    """The machine's own address of 22/tcp. `ssh_host` and `ssh_port` are a relay's, and are not used."""
    ports, host = row.get("ports"), row.get("public_ipaddr")
    mapped = ports.get("22/tcp") if isinstance(ports, dict) else None
    first = mapped[0] if isinstance(mapped, list) and mapped else None
    port = first.get("HostPort") if isinstance(first, dict) else None
    # Some have a newline or a space at the end.
    bare = host.strip(" \t\r\n") if isinstance(host, str) else host
    return ssh_access("vastai", host=("public_ipaddr", bare), port=("ports", port), read_port=Port.spelled)
