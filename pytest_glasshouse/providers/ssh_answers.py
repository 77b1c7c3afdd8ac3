"""What a host of the user's own answers, read into values that can hold nothing else. Questions: `channel/host_service.py`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from pytest_glasshouse.channel.access import HostAccess
from pytest_glasshouse.channel.wheels import OLDEST_PYTHON
from pytest_glasshouse.errors import IntegrityError, ProtocolError
from pytest_glasshouse.providers.base import GpuUse, Instance, InstanceState, PlaceCheck
from pytest_glasshouse.providers.lease import NAME_PREFIX, parse_name
from pytest_glasshouse.wire.printable import printable
from pytest_glasshouse.wire.shapes import Fields, Flag, Items, Maybe, NamedMembers, OneOf, Text, Whole

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What reading an answer raises.
WRONG = (ProtocolError, IntegrityError)

_HOLDER = Fields({"user": Text(most=80), "name": Text(most=80), "since": Whole()})
_UUID = Text(most=64, pattern=r"[A-Za-z0-9-]{1,64}")
_OTHER = Fields({"pid": Whole(), "mib": Whole()})
_GPU = Fields({"index": Whole(), "uuid": _UUID, "model": Text(most=100), "others": Items(of=_OTHER, most=1000)})
_PROBE = Fields({
    "user": Text(most=80), "python": Text(most=8, pattern=r"[0-9]{1,2}\.[0-9]{1,3}"), "torch": Maybe(Text(most=64)),
    "gpus": Items(of=_GPU, most=64), "held": NamedMembers(name=_UUID, of=_HOLDER, most=64), "free_mb": Whole(), "locks": Flag(),
    "at": Whole(),
})  # fmt: skip
_ALLOCATION = Fields({
    "id": Text(most=40, pattern=r"[A-Za-z0-9_]{1,40}"), "name": Text(most=100), "directory": Text(most=100),
    "model": Text(most=100), "state": OneOf(("running", "queued", "left")), "holder": Maybe(_HOLDER),
    "others": Items(of=_OTHER, most=1000),
})  # fmt: skip
_STATES: dict[str, InstanceState] = {"running": "running", "queued": "queued", "left": "stopped"}
_ROOM_MB = 1024
#: An answer takes some seconds to come.
_SKEW_S = 60.0


@dataclass(frozen=True, kw_only=True)
class HostGpu:
    """One GPU of a host, and how many processes use it."""

    index: int
    uuid: str
    model: str
    use: GpuUse

    def is_called(self, asked: str) -> bool:
        """Whether the user's text names it: nothing, its index, or the beginning of its UUID."""
        return not asked or asked == str(self.index) or self.uuid.startswith(asked)


@dataclass(frozen=True, kw_only=True)
class ProbedHost:
    """One host: its interpreter, its GPUs, and who holds which; `clock_s` in seconds since 1970."""

    user: str
    python: str
    torch: str | None
    gpus: tuple[HostGpu, ...]
    held: Mapping[str, str]
    free_mb: int
    locks: bool
    clock_s: int

    def unusable(self) -> str:
        """Why no row can run there; empty where one can."""
        wanted = ".".join(map(str, OLDEST_PYTHON))
        if tuple(map(int, self.python.split("."))) < OLDEST_PYTHON:
            return f"has Python {self.python}, and {wanted} or newer is needed; name another one with --glasshouse-remote-python"
        if self.torch is None:
            return "has no torch in its Python; name the Python that has it with --glasshouse-remote-python"
        if not self.locks:
            return "has no directory that all its users can write locks to; set GLASSHOUSE_LOCKS there"
        if self.free_mb < _ROOM_MB:
            return f"has {self.free_mb} MiB free for a guest, and {_ROOM_MB} are needed; set TMPDIR there"
        return ""


def host(answer: dict[str, Any]) -> ProbedHost:
    """The answer to `probe`. Raises one of `WRONG`."""
    _PROBE.check(answer, "probe")
    gpus = tuple(
        HostGpu(index=gpu["index"], uuid=gpu["uuid"], model=gpu["model"], use=_counted(gpu["others"])) for gpu in answer["gpus"]
    )
    held = {name: described(holder) for name, holder in answer["held"].items()}
    return ProbedHost(
        user=answer["user"], python=answer["python"], torch=answer["torch"], gpus=gpus, held=held, free_mb=answer["free_mb"],
        locks=answer["locks"], clock_s=answer["at"],
    )  # fmt: skip


def check(host: ProbedHost, label: str, *, allow_simulated: bool) -> PlaceCheck:
    """What `glasshouse doctor` says of a host."""
    if wrong := host.unusable():
        return PlaceCheck(mark="FAIL", what=label, detail=wrong)
    seen = [f"Python {host.python}, torch {host.torch}, user {host.user}"]
    seen += [f"{gpu.model} {host.held.get(gpu.uuid, 'free')}{_shared(gpu.use)}" for gpu in host.gpus]
    skew_s = abs(time.time() - host.clock_s)
    if skew_s > _SKEW_S:
        fix = "set its clock (NTP): deadlines of allocations are absolute"
        return PlaceCheck(mark="FAIL", what=label, detail=f"its clock is {skew_s:.0f} s away from this machine's", fix=fix)
    if not host.gpus:
        mark: Literal["warn", "FAIL"] = "warn" if allow_simulated else "FAIL"
        return PlaceCheck(mark=mark, what=label, detail="; ".join([*seen, "no NVIDIA GPU that nvidia-smi shows"]))
    return PlaceCheck(mark="warn" if host.held else "ok", what=label, detail="; ".join(seen))


def created(answer: dict[str, Any], key: str) -> Instance:
    """The answer to `create` where it was. Raises one of `WRONG`."""
    Fields({"created": Text(most=40), "state": _ALLOCATION}).check(answer, "create")
    return _instance(answer["state"], key)


def allocation(answer: dict[str, Any], key: str) -> Instance | None:
    """The answer to `get`. Raises one of `WRONG`."""
    Fields({"allocation": Maybe(_ALLOCATION)}).check(answer, "get")
    return None if answer["allocation"] is None else _instance(answer["allocation"], key)


def allocations(answer: dict[str, Any], key: str) -> list[Instance]:
    """The answer to `list`: this project's. Raises one of `WRONG`."""
    Fields({"allocations": Items(of=_ALLOCATION, most=10_000)}).check(answer, "list")
    return [_instance(each, key) for each in answer["allocations"] if each["name"].startswith(NAME_PREFIX)]


def log(answer: dict[str, Any]) -> str:
    """The answer to `log`."""
    text = answer.get("log")
    return text[-4000:] if isinstance(text, str) else ""


def held_by(holder: object, where: str) -> str:
    """Who holds a GPU, as the end of a sentence."""
    try:
        _HOLDER.check(holder, where)  # type: ignore[arg-type]
    except ProtocolError:
        return "held by somebody"
    assert isinstance(holder, dict)  # noqa: S101
    return described(holder)


def described(holder: Mapping[str, Any]) -> str:
    """Who holds a GPU, for which run, and since when. Whoever holds it wrote that."""
    named = parse_name(holder["name"])
    run = f"run {named.run_id}" if named is not None else printable(holder["name"], limit=80) or "a run"
    since = datetime.fromtimestamp(min(holder["since"], 1 << 33), UTC)
    return f"held by {printable(holder['user'], limit=40) or 'somebody'} for {run} since {since:%Y-%m-%d %H:%M:%S} UTC"


def _instance(shown: dict[str, Any], key: str) -> Instance:
    return Instance(
        instance_id=f"{key}-{shown['id']}",
        name=shown["name"],
        state=_STATES[shown["state"]],
        raw_state={"queued": "waiting for the GPU", "left": "left behind"}.get(shown["state"], "running"),
        access=HostAccess(directory=shown["directory"]) if shown["state"] == "running" else None,
        gpu_model=shown["model"] or None,
        detail=described(shown["holder"]) if shown["holder"] is not None else "",
        gpu_use=_counted(shown["others"]),
    )


def _shared(use: GpuUse) -> str:
    return f", used by {use.processes} processes of others ({use.memory_mib} MiB)" if use.processes else ""


def _counted(others: list[dict[str, int]]) -> GpuUse:
    return GpuUse(processes=len(others), memory_mib=sum(each["mib"] for each in others))
